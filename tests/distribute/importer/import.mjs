// CIDs as ipfs-unixfs-importer gives them: node import.mjs FOLDER-WITH-NODE_MODULES < cases.json > answers.json
//
// cases: [{chunk, width, raw, version, strategy, threshold, files: [[path, size, seed]…], folders: [path…]}…]
// answers: one a case, [[path, cid, size of the whole DAG]…], the root with path ""
import { pathToFileURL } from 'node:url'
import { join } from 'node:path'

const base = join(process.argv[2], 'node_modules')
const load = (...parts) => import(pathToFileURL(join(base, ...parts)).href)
const { importer } = await load('ipfs-unixfs-importer', 'dist', 'src', 'index.js')
const { balanced } = await load('ipfs-unixfs-importer', 'dist', 'src', 'layout', 'balanced.js')
const { fixedSize } = await load('ipfs-unixfs-importer', 'dist', 'src', 'chunker', 'fixed-size.js')
const { BlackHoleBlockstore } = await load('blockstore-core', 'dist', 'src', 'black-hole.js')

// the same as content() of test_importer_oracle.py: every 8 bytes say where they are
function content (size, seed) {
  const data = Buffer.alloc(size + 8)
  for (let at = 0; at < size; at += 8) {
    data.writeUInt32LE((at + seed) >>> 0, at)
  }
  return new Uint8Array(data.subarray(0, size))
}

const parts = []
for await (const part of process.stdin) parts.push(part)
const answers = []
for (const item of JSON.parse(Buffer.concat(parts).toString())) {
  const candidates = item.files.map(([path, size, seed]) => ({ path, content: content(size, seed) }))
  candidates.push(...item.folders.map(path => ({ path })))
  const answer = []
  for await (const entry of importer(candidates, new BlackHoleBlockstore(), {
    cidVersion: item.version,
    rawLeaves: item.raw,
    shardSplitStrategy: item.strategy,
    shardSplitThresholdBytes: item.threshold,
    chunker: fixedSize({ chunkSize: item.chunk }),
    layout: balanced({ maxChildrenPerNode: item.width }),
    wrapWithDirectory: true
  })) {
    answer.push([entry.path ?? '', entry.cid.toString(), Number(entry.size)])
  }
  answers.push(answer)
}
process.stdout.write(JSON.stringify(answers))
