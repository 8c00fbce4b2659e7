// What a Node peer's worker notes, and how it is asked: see ../reporter.py.
'use strict'

const readline = require('node:readline')

const calls = []

const now = () => Date.now() / 1000 // milliseconds
const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n')

const command = process.argv[2]
const holds = command === 'recover' && process.argv[6] === '1'

exports.called = (payload) => calls.push([payload.key, payload.due, now()])

// A job runs; it ends unless jobs are held.
exports.ran = async (payload) => {
  exports.called(payload)
  if (holds) await new Promise(() => {})
}

const cpu = () => {
  const used = process.resourceUsage()
  return (used.userCPUTime + used.systemCPUTime) / 1e6
}

exports.serve = () => {
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', (line) => {
    if (JSON.parse(line).do === 'clear') calls.length = 0
    say({ calls, cpu: cpu(), now: now() })
  })
  lines.on('close', () => process.kill(process.pid, 'SIGKILL'))
  say({ pid: process.pid, cpu: cpu() })
}

const payloads = (count, dueIn, spread) =>
  Array.from({ length: count }, (_, number) => ({
    key: `job-${number}`,
    due: now() + dueIn + Math.random() * spread
  }))

exports.main = async ({ prepare, fill, work, rest, recover }) => {
  const [url, ...more] = process.argv.slice(3)
  const plain = url.replace('+psycopg', '')
  if (command === 'work') return work(plain)
  if (command === 'rest') return rest(plain)
  if (command === 'recover') return recover(plain, Number(more[0]))
  if (command === 'prepare') await prepare(plain)
  else await fill(plain, payloads(...more.map(Number)))
  say({ done: command })
  process.exit(0)
}
