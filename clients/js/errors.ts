/** What can go wrong between a client and the service. */
import type { Problem } from '../../shared/errors.ts';

/** The service refused a request; the problem document says what, why and what to do. */
export class DdpnoptError extends Error {
  override readonly name = 'DdpnoptError';
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(`${problem.detail} ${problem.remedy} (${problem.code}, request ${problem.request_id})`);
    this.problem = problem;
  }
}

/** No answer came, or none that the service would give: a wrong address, a proxy, a broken connection. A step may have been applied. */
export class ConnectionError extends Error {
  override readonly name = 'ConnectionError';
}
