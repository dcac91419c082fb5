/** Runs: many steps of a hosted session on its data set, asked for in one call. */
import * as z from 'zod';
import { mediaType, ProblemError, problemSchema } from './errors.ts';
import { LIMITS } from './limits.ts';
import { sampleOrderSchema } from './sample-order.ts';
import { EVENT_STREAM_CONTENT_TYPE, formatEvent, sessionEventSchema } from './session-events.ts';
import { stepMetricsSchema } from './session.ts';

export const runOrderSchema = z
  .strictObject({
    steps: z.int().min(1).max(LIMITS.runSteps).meta({ description: 'Steps to take', example: 1000 }),
    batch: z.int().min(1).max(LIMITS.batch).meta({ description: 'Samples of each', example: 128 }),
    order: sampleOrderSchema,
  })
  .meta({ id: 'RunOrder', description: 'What a run is to do' });

export type RunOrder = z.output<typeof runOrderSchema>;
export type RunOrderInput = z.input<typeof runOrderSchema>;

/** What is wrong, without the request that it has nothing to do with. */
const runProblemSchema = problemSchema.pick({
  code: true,
  title: true,
  detail: true,
  remedy: true,
  param: true,
});

export const runSchema = z
  .object({
    ...runOrderSchema.shape,
    firstStep: z.int().meta({ description: 'n: the number of its first step, by which it is known' }),
    samples: z.int().meta({ description: 'Samples of the data set as the run draws from it: those of when it began' }),
    state: z.enum(['running', 'finished', 'cancelled', 'failed']).meta({
      description:
        '`finished` with all of its steps; `cancelled` or `failed` before nextStep, the steps before which count',
    }),
    nextStep: z.int().meta({ description: 'Its steps before this one are taken' }),
    metrics: stepMetricsSchema.nullable().meta({ description: 'Of the last of them; null before the first' }),
    problem: runProblemSchema.nullable().meta({ description: 'Why it failed, and what to do about it; else null' }),
    startedAt: z.iso.datetime(),
    endedAt: z.iso.datetime().nullable().meta({ description: 'null while it runs' }),
  })
  .meta({ id: 'Run' });

export type Run = z.output<typeof runSchema>;

export const runListSchema = z
  .object({
    runs: z.array(runSchema).meta({ description: `In their order; the last ${String(LIMITS.runs)} are known` }),
  })
  .meta({ id: 'RunList' });

/** What is told of a run: its steps as they are taken, and itself at the beginning and at the end. */
export const runEventSchema = z
  .discriminatedUnion('event', [...sessionEventSchema.options, z.object({ event: z.literal('run'), data: runSchema })])
  .meta({ id: 'RunEvent', description: 'The `event` and the `data`, as JSON, of a server-sent event' });

export type RunEvent = z.output<typeof runEventSchema>;

/** An event's text. Only steps have an id: whoever connects again says which one it has seen last. */
export function formatRunEvent(event: RunEvent): string {
  if (event.event !== 'run') return formatEvent(event);
  return `event: run\ndata: ${JSON.stringify(event.data)}\n\n`;
}

/** Whether the header Accept asks for a run's events rather than its description. */
export function prefersEvents(accept: string | undefined): boolean {
  return accept?.split(',').some((range) => mediaType(range) === EVENT_STREAM_CONTENT_TYPE) === true;
}

export function runNotFound(firstStep: number): ProblemError {
  return new ProblemError('run_not_found', {
    param: 'n',
    detail: `No run of this session began with step ${String(firstStep)}, or it is not known any more.`,
    remedy: `Begin one with PUT …/runs/{n}, n the session’s nextStep; the last ${String(LIMITS.runs)} are known.`,
  });
}
