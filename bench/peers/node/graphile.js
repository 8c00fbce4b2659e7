// graphile-worker: a local queue, batched completion, as its page on performance says.
'use strict'

const { Pool } = require('pg')
const { run, runMigrations } = require('graphile-worker')
const reporter = require('./reporter')

const quiet = { logger: undefined, noHandleSignals: true }

const work = async (url, worker) => {
  const { Logger } = require('graphile-worker')
  await run({
    ...quiet,
    logger: new Logger(() => () => {}),
    connectionString: url,
    preset: { worker },
    taskList: { noop: reporter.ran }
  })
  reporter.serve()
}

reporter.main({
  prepare: (url) => runMigrations({ connectionString: url }),

  fill: async (url, payloads) => {
    const pool = new Pool({ connectionString: url })
    for (let start = 0; start < payloads.length; start += 1000) {
      const jobs = payloads.slice(start, start + 1000).map((payload) => ({
        identifier: 'noop',
        payload,
        run_at: new Date(payload.due * 1000).toISOString()
      }))
      await pool.query(
        `SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
           SELECT json_populate_record(null::graphile_worker.job_spec, job)
           FROM json_array_elements($1::json) AS job))`,
        [JSON.stringify(jobs)]
      )
    }
    await pool.end()
  },

  work: (url) =>
    work(url, {
      concurrentJobs: 24,
      maxPoolSize: 10,
      pollInterval: 50,
      localQueue: { size: 500 },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0
    }),

  rest: (url) => work(url, {}),

  // It has no lease to be set, it is 4 hours; but it may look for old locks more often.
  recover: (url) =>
    work(url, {
      concurrentJobs: 1000,
      pollInterval: 50,
      minResetLockedInterval: 1000,
      maxResetLockedInterval: 1000
    })
})
