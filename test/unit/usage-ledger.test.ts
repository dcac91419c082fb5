/** What isolates report is added once, whatever happens on the way; a meter and its ledger agree with what was counted. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { openSqliteSql } from '../../deploy/node/sqlite-sql.ts';
import { localDirectory, type AccessDirectory } from '../../edge/access/access-directory.ts';
import { TokenBucket } from '../../edge/access/token-bucket.ts';
import { UsageMeter } from '../../edge/access/usage-meter.ts';
import { NO_USAGE } from '../../shared/access.ts';
import { tenantSchema } from '../../shared/tenant.ts';

const TENANTS = ['a', 'b'].map((name) => tenantSchema.parse(name));
const DAYS = ['2000-01-01', '2999-12-31'] as const;
const STEP = { ...NO_USAGE, requests: 1, steps: 1, bytesIn: 10, computeSeconds: 0.5 };

/** A directory whose answers, or the reports to it, get lost as the list says. */
function unreliable(directory: AccessDirectory, losses: ('report' | 'answer' | null)[]): AccessDirectory {
  return {
    ...directory,
    report: async (report) => {
      const loss = losses.shift() ?? null;
      if (loss === 'report') throw new Error('the report was lost');
      const standings = await directory.report(report);
      if (loss === 'answer') throw new Error('the answer was lost');
      return standings;
    },
  };
}

const ignored = (): undefined => undefined;

describe('usage', () => {
  it('is the sum of what all isolates counted, whatever was lost and sent again', async () => {
    const event = fc.record({
      isolate: fc.nat(1),
      tenant: fc.constantFrom(...TENANTS),
      flush: fc.boolean(),
    });
    const losses = fc.array(fc.constantFrom('report', 'answer', null), { maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(fc.array(event, { maxLength: 30 }), losses, async (events, lost) => {
        const sql = openSqliteSql(':memory:');
        try {
          const directory = localDirectory(sql);
          const meters = [0, 1].map(() => new UsageMeter(unreliable(directory, lost)));
          for (const { isolate, tenant, flush } of events) {
            meters[isolate]!.count(tenant, null, STEP);
            // Two at once, as requests of one isolate make them.
            const { flush: one } = { flush: () => meters[isolate]!.flush().catch(ignored) };
            if (flush) await Promise.all([one(), one()]);
          }
          lost.length = 0;
          for (const meter of meters) await meter.flushAll();
          for (const tenant of TENANTS) {
            const steps = events.filter((each) => each.tenant === tenant).length;
            const days = await directory.usage(tenant, ...DAYS);
            expect(days.map((day) => [day.steps, day.bytesIn, day.computeSeconds])).toEqual(
              steps === 0 ? [] : [[steps, 10 * steps, 0.5 * steps]],
            );
          }
        } finally {
          sql.close();
        }
      }),
      { seed: 1, numRuns: 60 },
    );
  });

  it('of an isolate is what it counted and what it knows of others', async () => {
    const sql = openSqliteSql(':memory:');
    const directory = localDirectory(sql);
    const [tenant] = TENANTS;
    const [here, there] = [new UsageMeter(directory), new UsageMeter(directory)];
    here.count(tenant!, null, STEP);
    there.count(tenant!, null, STEP);
    expect(here.takenToday(tenant!).steps).toBe(1);
    await there.flush();
    await here.flush();
    expect(here.takenToday(tenant!).steps).toBe(2);
    here.count(tenant!, null, STEP);
    expect(here.takenToday(tenant!).steps).toBe(3);
    sql.close();
  });
});

describe('a token bucket', () => {
  it('admits the burst, then the rate', () => {
    const bucket = new TokenBucket(3, 0);
    const admitted = Array.from({ length: 100 }, (_, i) => bucket.take(2, 3, 100 * i).isAdmitted).filter(Boolean);
    // The burst, and two a second for 9.9 seconds.
    expect(admitted).toHaveLength(3 + 19);
  });

  it('says how long to wait: then the next is admitted, and not before', () => {
    const settings = fc.record({
      rate: fc.double({ min: 0.01, max: 1000, noNaN: true }),
      burst: fc.integer({ min: 1, max: 20 }),
    });
    fc.assert(
      fc.property(settings, ({ rate, burst }) => {
        const bucket = new TokenBucket(burst, 0);
        let state = bucket.take(rate, burst, 0);
        while (state.isAdmitted) state = bucket.take(rate, burst, 0);
        expect(bucket.take(rate, burst, 990 * state.wait).isAdmitted).toBe(false);
        expect(bucket.take(rate, burst, 1010 * state.wait).isAdmitted).toBe(true);
      }),
      { seed: 1 },
    );
  });
});
