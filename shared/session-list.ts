/** Lists of sessions, page by page. */
import * as z from 'zod';
import { sessionIdSchema } from './session.ts';

export const sessionSummarySchema = z
  .object({
    id: sessionIdSchema,
    mode: z.enum(['layers', 'kernel', 'hosted']),
    nextStep: z.int().nullable().meta({
      description: 'The sequence number the next step must have; null for a session that is in storage and not in use',
    }),
    createdAt: z.iso.datetime(),
    expiresAt: z.iso.datetime().meta({ description: 'When the session is removed unless a request comes' }),
  })
  .meta({ id: 'SessionSummary' });

export type SessionSummary = z.output<typeof sessionSummarySchema>;

export const sessionListSchema = z
  .object({
    sessions: z.array(sessionSummarySchema).meta({ description: 'Newest first' }),
    total: z.int().meta({ description: 'Sessions on all pages together' }),
    next: z
      .string()
      .nullable()
      .meta({ description: 'What to send as `after` for the next page; null on the last one' }),
  })
  .meta({ id: 'SessionList' });

export type SessionList = z.output<typeof sessionListSchema>;

/** Numbers come as text in a query. */
export const sessionListQuerySchema = z.object({
  limit: z.coerce
    .number()
    .int()
    .min(1)
    .max(200)
    .default(50)
    .meta({ description: 'Sessions in a page', type: 'integer', minimum: 1, maximum: 200 }),
  after: z
    .string()
    .regex(/^\d{4}-\d\d-\d\dT[\d:.]+Z,ses_[0-9a-f]{32}$/, { error: 'what a page’s `next` said was expected' })
    .optional()
    .meta({ description: 'The `next` of the page before' }),
});

export type SessionListQuery = z.output<typeof sessionListQuerySchema>;

/** Where a session stands in the list. */
function positionOf({ createdAt, id }: Pick<SessionSummary, 'createdAt' | 'id'>): string {
  return `${createdAt},${id}`;
}

/** One page of the sessions that there are, in any order. */
export function pageOf(sessions: readonly SessionSummary[], { limit, after }: SessionListQuery): SessionList {
  const following = sessions
    .filter((session) => after === undefined || positionOf(session) < after)
    .toSorted((a, b) => (positionOf(a) < positionOf(b) ? 1 : -1));
  const page = following.slice(0, limit);
  const last = page.at(-1);
  return {
    sessions: page,
    total: sessions.length,
    next: following.length > limit && last !== undefined ? positionOf(last) : null,
  };
}

/** One page of what several workers hold, each of which has answered the same query. */
export function mergePages(lists: readonly SessionList[], query: SessionListQuery): SessionList {
  // A session on its way from one worker to another may be on both.
  const sessions = new Map(lists.flatMap((list) => list.sessions).map((session) => [session.id, session]));
  const page = pageOf([...sessions.values()], query);
  const total = lists.reduce((sum, list) => sum + list.total, 0);
  const last = page.sessions.at(-1);
  const hasMore = page.next !== null || lists.some(({ next }) => next !== null);
  return { ...page, total, next: hasMore && last !== undefined ? positionOf(last) : null };
}
