"""The spine of Headwater: steps, manifests, digests, energy, the executor and the command."""

__version__ = "0.1.0"
