/**
 * Errors of the service as RFC 9457 problem documents.
 *
 * Every error that can reach a client has one entry in {@link PROBLEMS}; its code is stable, its texts may improve.
 */
import * as z from 'zod';

interface ProblemKind {
  readonly status:
    400 | 401 | 403 | 404 | 405 | 409 | 410 | 411 | 412 | 413 | 415 | 422 | 429 | 500 | 502 | 503 | 504 | 507;
  readonly title: string;
  /** Whether the same request may succeed later without a change. */
  readonly retryable: boolean;
}

export const PROBLEMS = {
  malformed_json: { status: 400, title: 'The body is not JSON', retryable: false },
  unsupported_api_version: { status: 400, title: 'The API has no such version', retryable: false },
  truncated_body: { status: 400, title: 'The body is shorter than announced', retryable: true },
  client_disconnected: { status: 400, title: 'The client went away before its turn came', retryable: true },
  unauthenticated: { status: 401, title: 'The request has no valid API key', retryable: false },
  forbidden: { status: 403, title: 'The API key does not allow this', retryable: false },
  access_not_configured: {
    status: 403,
    title: 'The service has no access control and is not on loopback',
    retryable: false,
  },
  rate_limited: { status: 429, title: 'Too many requests in a short time', retryable: true },
  quota_exceeded: { status: 429, title: 'The tenant has used up what it may', retryable: true },
  access_unavailable: { status: 503, title: 'Keys cannot be checked', retryable: true },
  key_not_found: { status: 404, title: 'No such API key', retryable: false },
  route_not_found: { status: 404, title: 'No such resource', retryable: false },
  session_not_found: { status: 404, title: 'No such session', retryable: false },
  session_expired: { status: 410, title: 'The session has expired', retryable: false },
  checkpoint_not_found: { status: 404, title: 'No such checkpoint', retryable: false },
  not_hosted: { status: 409, title: 'The service does not hold this session’s model', retryable: false },
  step_cancelled: { status: 409, title: 'The step was cancelled while it waited', retryable: false },
  step_in_progress: { status: 409, title: 'The step is being computed', retryable: false },
  step_applied: { status: 409, title: 'The step has been applied', retryable: false },
  run_in_progress: { status: 409, title: 'A run is taking the session’s steps', retryable: false },
  run_not_found: { status: 404, title: 'No such run', retryable: false },
  method_not_allowed: { status: 405, title: 'This resource has no such method', retryable: false },
  session_rewound: {
    status: 409,
    title: 'The session has lost steps and goes on from an earlier one',
    retryable: false,
  },
  reply_not_retained: { status: 410, title: 'The reply of this step is no longer kept', retryable: false },
  length_required: { status: 411, title: 'The length of the body is missing', retryable: false },
  data_missing: { status: 412, title: 'The run needs samples that are not there', retryable: false },
  parts_missing: { status: 412, title: 'Parts of the step are missing', retryable: false },
  step_out_of_order: { status: 412, title: 'The step is not the next one', retryable: false },
  body_too_large: { status: 413, title: 'The body is too large', retryable: false },
  unsupported_media_type: { status: 415, title: 'The body has the wrong content type', retryable: false },
  invalid_parameter: { status: 422, title: 'A parameter is out of its range', retryable: false },
  invalid_header: { status: 422, title: 'The safetensors header is invalid', retryable: false },
  length_mismatch: { status: 422, title: 'The header and the length of the body disagree', retryable: false },
  unknown_tensor: { status: 422, title: 'A tensor has a name the session does not know', retryable: false },
  missing_tensor: { status: 422, title: 'A tensor is missing', retryable: false },
  dtype_unsupported: { status: 422, title: 'A tensor has an element type that is not taken', retryable: false },
  shape_mismatch: { status: 422, title: 'A tensor has the wrong shape', retryable: false },
  non_finite_value: { status: 422, title: 'A tensor contains NaN or infinity', retryable: false },
  invalid_index: { status: 422, title: 'A tensor of indices contains a value that is none', retryable: false },
  step_too_large: { status: 422, title: 'The batch takes more than one request may', retryable: false },
  parts_unsupported: {
    status: 422,
    title: 'The steps of this session cannot be put together from parts',
    retryable: false,
  },
  part_conflict: { status: 422, title: 'This part was sent with another body', retryable: false },
  chunk_conflict: { status: 422, title: 'This chunk was sent with another body', retryable: false },
  run_conflict: { status: 422, title: 'This run was begun with another order', retryable: false },
  data_too_large: { status: 422, title: 'The data set is larger than a session may have', retryable: false },
  option_fixed: { status: 422, title: 'This option cannot change while the session runs', retryable: false },
  step_conflict: { status: 422, title: 'This step was applied with another body', retryable: false },
  numerical_failure: { status: 422, title: 'The result cannot be computed in floating point', retryable: false },
  invalid_checkpoint: { status: 422, title: 'The checkpoint is damaged, or is none', retryable: false },
  session_exists: { status: 422, title: 'The session exists with another definition', retryable: false },
  session_limit_reached: { status: 503, title: 'The worker holds as many sessions as it can', retryable: true },
  memory_full: { status: 503, title: 'The worker’s memory for bodies and answers is full', retryable: true },
  listeners_full: { status: 429, title: 'Too many are listening', retryable: true },
  queue_full: { status: 429, title: 'Too many steps are waiting', retryable: true },
  worker_unavailable: { status: 503, title: 'The worker does not answer', retryable: true },
  worker_timeout: { status: 504, title: 'The worker does not answer in time', retryable: true },
  worker_protocol: { status: 502, title: 'The worker answered something unexpected', retryable: false },
  call_refused: { status: 401, title: 'The call is not one of this service', retryable: false },
  other_tenant: { status: 404, title: 'The session is another tenant’s', retryable: false },
  session_moved: { status: 503, title: 'The session has moved to another worker', retryable: true },
  storage_full: { status: 507, title: 'The worker’s storage is full', retryable: true },
  storage_unavailable: { status: 503, title: 'The worker’s storage fails', retryable: true },
  storage_damaged: { status: 500, title: 'What is stored of the session is damaged', retryable: false },
  internal: { status: 500, title: 'The service failed', retryable: false },
} as const satisfies Record<string, ProblemKind>;

export type ProblemCode = keyof typeof PROBLEMS;

const PROBLEM_CODES = Object.keys(PROBLEMS) as [ProblemCode, ...ProblemCode[]];

export function isProblemCode(text: string): text is ProblemCode {
  return Object.hasOwn(PROBLEMS, text);
}

export const problemSchema = z
  .object({
    type: z
      .string()
      .meta({ description: 'A URI reference that names the kind of problem', example: '/problems/shape_mismatch' }),
    title: z.string().meta({ description: 'The kind of problem in words' }),
    status: z.int().meta({ description: 'The HTTP status' }),
    detail: z.string().meta({ description: 'What is wrong in this request: field, value, and what was expected' }),
    remedy: z.string().meta({ description: 'What to do about it' }),
    code: z.enum(PROBLEM_CODES).meta({ description: 'Stable, for programs' }),
    param: z.string().optional().meta({ description: 'The field or tensor at fault', example: 'layers.fc1.input' }),
    retryable: z.boolean().meta({ description: 'Whether the same request may succeed later' }),
    request_id: z.string().meta({ description: 'Quote this when you report the problem' }),
    missingParts: z
      .array(z.int())
      .optional()
      .meta({ description: 'With parts_missing: the parts to send, the first 100' }),
    missingChunks: z
      .array(z.int())
      .optional()
      .meta({ description: 'With data_missing: the chunks to send, the first 100' }),
    expectedStep: z.int().optional().meta({ description: 'With step_out_of_order: the step the session expects next' }),
    resumeFrom: z
      .int()
      .optional()
      .meta({ description: 'With session_rewound: the first step to send again; the session has the steps before it' }),
    epoch: z.int().optional().meta({ description: 'With session_moved: how often the session has changed hands' }),
    retryAfter: z.int().optional().meta({ description: 'As the header Retry-After: seconds, where more than one' }),
  })
  .meta({ id: 'Problem', description: 'RFC 9457 problem document' });

export type Problem = z.infer<typeof problemSchema>;

export interface ProblemDetails {
  /** What is wrong in this request: names the field, its value and what was expected. */
  readonly detail: string;
  /** What the caller can do about it, in words. */
  readonly remedy: string;
  /** The field or tensor at fault. */
  readonly param?: string;
  /** With `parts_missing`: the parts to send. */
  readonly missingParts?: number[];
  /** With `data_missing`: the chunks to send. */
  readonly missingChunks?: number[];
  /** With `step_out_of_order`: the step the session expects next. */
  readonly expectedStep?: number;
  /** With `session_rewound`: the first step to send again. */
  readonly resumeFrom?: number;
  /** With `session_moved`: the latest epoch that the session’s store knows of. */
  readonly epoch?: number;
  /** Seconds after which the same request may succeed, where more than one. */
  readonly retryAfter?: number;
}

/** A text may quote what the client sent, which may be of any length. */
function shorten(text: string, maximum: number): string {
  return text.length <= maximum ? text : `${text.slice(0, maximum)}…`;
}

/** An error with a meaning for the client. Everything else that is thrown is a defect and becomes `internal`. */
export class ProblemError extends Error {
  override readonly name = 'ProblemError';
  readonly code: ProblemCode;
  readonly details: ProblemDetails;

  constructor(code: ProblemCode, details: ProblemDetails, options?: ErrorOptions) {
    const { detail, param } = details;
    const shortened = {
      ...details,
      detail: shorten(detail, 1000),
      ...(param === undefined ? {} : { param: shorten(param, 300) }),
    };
    super(`${code}: ${shortened.detail}`, options);
    this.code = code;
    this.details = shortened;
  }

  get status(): ProblemKind['status'] {
    return PROBLEMS[this.code].status;
  }

  get retryable(): boolean {
    return PROBLEMS[this.code].retryable;
  }

  /** The header Retry-After; null if the request need not be sent again. */
  get retryAfter(): string | null {
    return this.retryable ? String(this.details.retryAfter ?? RETRY_AFTER_SECONDS) : null;
  }

  toProblem(requestId: string): Problem {
    const { title, status, retryable } = PROBLEMS[this.code];
    return {
      type: `/problems/${this.code}`,
      title,
      status,
      code: this.code,
      ...this.details,
      retryable,
      request_id: requestId,
    };
  }
}

/** What was thrown, as an Error. */
export function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}

/** The problem that stands for a defect of the service: its cause is logged, not shown. */
export function internalProblem(cause: unknown): ProblemError {
  return new ProblemError(
    'internal',
    { detail: 'The service failed while it answered this request.', remedy: 'Report it with the request id.' },
    { cause },
  );
}

/** Retry-After of retryable problems that do not say better. */
const RETRY_AFTER_SECONDS = 1;

export const PROBLEM_CONTENT_TYPE = 'application/problem+json';

/** Whether an answer claims to be a problem document. */
export function isProblem(response: { readonly headers: { get: (name: string) => string | null } }): boolean {
  return mediaType(response.headers.get('content-type')) === PROBLEM_CONTENT_TYPE;
}

/** The media type of a Content-Type header, without its parameters. */
export function mediaType(contentType: string | null | undefined): string | undefined {
  return contentType?.split(';')[0]?.trim().toLowerCase();
}
