"""The faces of a seeded release over HTTP: a mirror for anybody, a trustless gateway for those who ask by CID.

shelf     which files there are, and whether each is still the one that was there when seeding began
blocks    CID -> file, offset, length, from the tree of CIDs alone
mirror    GET /manifest.json, /NAME/<path> …, with Range
gateway   GET /ipfs/<cid>?format=raw|car
server    the socket: limits on connections, time and rate; counters
"""
