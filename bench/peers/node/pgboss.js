// pg-boss: batches of 1,000, four workers, polling as fast as it allows.
'use strict'

const loaded = require('pg-boss')
const reporter = require('./reporter')

const PgBoss = loaded.PgBoss || loaded.default || loaded

const boss = (url, options) => {
  const made = new PgBoss({ connectionString: url, ...options })
  made.on('error', () => {})
  return made
}

const work = async (url, options, workers, how, queue) => {
  const made = boss(url, options)
  await made.start()
  if (queue) await made.updateQueue('noop', queue)
  for (let number = 0; number < workers; number++) {
    await made.work('noop', how, (jobs) =>
      Promise.all(jobs.map((job) => reporter.ran(job.data)))
    )
  }
  reporter.serve()
}

reporter.main({
  prepare: async (url) => {
    const made = boss(url)
    await made.start()
    await made.createQueue('noop')
    await made.stop({ graceful: false })
  },

  fill: async (url, payloads) => {
    const made = boss(url, { supervise: false, schedule: false })
    await made.start()
    for (let start = 0; start < payloads.length; start += 1000) {
      const jobs = payloads.slice(start, start + 1000).map((payload) => ({
        name: 'noop',
        data: payload,
        startAfter: new Date(payload.due * 1000)
      }))
      await made.insert(...(made.insert.length > 1 ? ['noop', jobs] : [jobs]))
    }
    await made.stop({ graceful: false })
  },

  work: (url) => work(url, {}, 4, { batchSize: 1000, pollingIntervalSeconds: 0.5 }),

  rest: (url) => work(url, {}, 1, {}),

  // The lease is set when a job is handed in, or for its queue, as here.
  recover: (url, lease) =>
    work(
      url,
      { maintenanceIntervalSeconds: 1 },
      1,
      { batchSize: 1000, pollingIntervalSeconds: 0.5 },
      { expireInSeconds: lease }
    )
})
