/** The header traceparent. https://www.w3.org/TR/trace-context/ */

/** The trace that a request belongs to, if it says so. */
export function traceIdOf(headers: { readonly get: (name: string) => string | null }): string | undefined {
  return /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}/.exec(headers.get('traceparent') ?? '')?.[1];
}
