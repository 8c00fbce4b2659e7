// graphile-worker: a local queue, batched completion, as its page on performance says.
'use strict'

const { Pool } = require('pg')
const { run, runMigrations } = require('graphile-worker')
const reporter = require('./reporter')

const quiet = { logger: undefined, noHandleSignals: true }

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

  work: async (url) => {
    const { Logger } = require('graphile-worker')
    await run({
      ...quiet,
      logger: new Logger(() => () => {}),
      connectionString: url,
      preset: {
        worker: {
          concurrentJobs: 24,
          maxPoolSize: 10,
          pollInterval: 50,
          localQueue: { size: 500 },
          completeJobBatchDelay: 0,
          failJobBatchDelay: 0
        }
      },
      taskList: { noop: async (payload) => reporter.called(payload) }
    })
    reporter.serve()
  }
})
