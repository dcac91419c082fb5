/** The error answers of a route, for the OpenAPI document. */
import { PROBLEM_CONTENT_TYPE, PROBLEMS, problemSchema, type ProblemCode } from '../../shared/errors.ts';

interface ProblemResponse {
  description: string;
  content: Record<string, { schema: typeof problemSchema }>;
}

/** What can be wrong with a safetensors file. */
export const SAFETENSORS_PROBLEMS = [
  'truncated_body',
  'length_required',
  'body_too_large',
  'unsupported_media_type',
  'invalid_header',
  'length_mismatch',
  'unknown_tensor',
  'missing_tensor',
  'dtype_unsupported',
  'shape_mismatch',
  'non_finite_value',
  'queue_full',
  'memory_full',
] as const satisfies readonly ProblemCode[];

/** What can be wrong with a body of tensors, in a step as in a prediction. */
export const TENSOR_BODY_PROBLEMS = [
  'malformed_json',
  'invalid_parameter',
  ...SAFETENSORS_PROBLEMS,
  'invalid_index',
  'step_too_large',
] as const satisfies readonly ProblemCode[];

/** How a worker can fail. */
export const WORKER_PROBLEMS = [
  'worker_protocol',
  'worker_unavailable',
  'worker_timeout',
] as const satisfies readonly ProblemCode[];

/** What can keep a session from being reached. */
export const SESSION_PROBLEMS = [
  'session_not_found',
  'session_expired',
  'storage_unavailable',
  'storage_damaged',
  'session_moved',
  ...WORKER_PROBLEMS,
] as const satisfies readonly ProblemCode[];

/** How a key can be refused, wherever one is asked for. */
export const ACCESS_PROBLEMS = [
  'unauthenticated',
  'forbidden',
  'access_not_configured',
  'rate_limited',
  'quota_exceeded',
  'access_unavailable',
] as const satisfies readonly ProblemCode[];

/** What can keep a step from being taken, whole or from parts. */
export const STEP_PROBLEMS = [
  ...TENSOR_BODY_PROBLEMS,
  ...SESSION_PROBLEMS,
  'session_rewound',
  'step_cancelled',
  'reply_not_retained',
  'step_out_of_order',
  'step_conflict',
  'numerical_failure',
  'storage_full',
] as const satisfies readonly ProblemCode[];

/** One response per status, which lists the codes that come with it. */
export function problemResponses(...codes: readonly ProblemCode[]): Record<string, ProblemResponse> {
  const responses: Record<string, ProblemResponse> = {};
  const all: readonly ProblemCode[] = [...codes, 'internal'];
  for (const code of all) {
    const { status, title } = PROBLEMS[code];
    const text = `\`${code}\`: ${title}`;
    const existing = responses[String(status)];
    responses[String(status)] = {
      description: existing === undefined ? text : `${existing.description}; ${text}`,
      content: { [PROBLEM_CONTENT_TYPE]: { schema: problemSchema } },
    };
  }
  return responses;
}
