/** What edge and worker tell each other in headers, besides what the client is shown. */

export const WORKER_HEADER = {
  /** Edge to worker, as the client sent it or made at the edge; it stands in both sides’ logs and in problem documents. */
  requestId: 'x-request-id',
  /** Edge to worker: whose request it is; {@link LOCAL_TENANT} unless given. Another tenant’s session is answered as none. */
  tenant: 'x-ddpnopt-tenant',
  /** Edge to worker, when a session is created: sessions that the tenant may hold there, the new one included. */
  sessionQuota: 'x-ddpnopt-session-quota',
  /** Worker to edge: steps computed and not reported before. A reply that is given again reports none. */
  steps: 'x-ddpnopt-steps',
  /** Worker to edge: seconds of the device’s time, not reported before. */
  computeSeconds: 'x-ddpnopt-compute-seconds',
} as const;
