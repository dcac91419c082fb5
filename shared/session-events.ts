/** What can be listened to of a session: server-sent events (HTML standard, section 9.2), one per step. */
import * as z from 'zod';
import { ProblemError } from './errors.ts';
import { stepMetricsSchema } from './session.ts';

export const EVENT_STREAM_CONTENT_TYPE = 'text/event-stream';

const missedSchema = z.object({
  from: z.int().meta({ description: 'First step whose metrics are not kept any more' }),
  to: z.int().meta({ description: 'Last one' }),
});

const endSchema = z.object({
  reason: z.enum(['deleted', 'expired', 'stopped', 'slow']).meta({
    description:
      'Why there are no more events here: the session is deleted or has expired; the worker stops; or you read too slowly. In the last two ' +
      'cases connect again with Last-Event-ID',
  }),
});

export const sessionEventSchema = z
  .discriminatedUnion('event', [
    z.object({ event: z.literal('step'), data: stepMetricsSchema }),
    z.object({ event: z.literal('missed'), data: missedSchema }),
    z.object({ event: z.literal('end'), data: endSchema }),
  ])
  .meta({ id: 'SessionEvent', description: 'The `event` and the `data`, as JSON, of a server-sent event' });

export type SessionEvent = z.output<typeof sessionEventSchema>;
export type EndReason = z.output<typeof endSchema>['reason'];

/** An event's text. Its id is the last step that it speaks of. */
export function formatEvent({ event, data }: SessionEvent): string {
  const id = 'step' in data ? data.step : 'to' in data ? data.to : null;
  return `${id === null ? '' : `id: ${String(id)}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** A comment, so that nobody between takes the connection for dead. */
export const HEARTBEAT = ': heartbeat\n\n';

/**
 * The step after which events are wanted, by the header Last-Event-ID: -1 for all that are kept.
 *
 * @returns null without the header: events from now on
 * @throws ProblemError `invalid_parameter`
 */
export function parseLastEventId(text: string | undefined): number | null {
  if (text === undefined || text === '') return null;
  if (text === '-1' || /^(0|[1-9][0-9]{0,14})$/.test(text)) return Number(text);
  throw new ProblemError('invalid_parameter', {
    param: 'Last-Event-ID',
    detail: `Last-Event-ID is ${JSON.stringify(text)}; the number of a step was expected, or -1.`,
    remedy: 'Send the id of the last event that you have seen, -1 for all that are kept, or leave the header out.',
  });
}
