/** What a request handler at the edge can reach. */
import type { RequestIdVariables } from 'hono/request-id';

export interface EdgeEnv {
  readonly Bindings: Env;
  readonly Variables: RequestIdVariables;
}
