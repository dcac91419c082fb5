/** Traces through OpenTelemetry: one span for every request, in the trace that the client began. */
import { ROOT_CONTEXT, SpanKind, SpanStatusCode, type TextMapGetter } from '@opentelemetry/api';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { defaultResource, resourceFromAttributes } from '@opentelemetry/resources';
import { BatchSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace';
import type { RequestRecord } from './request-record.ts';

/** Where traces go to. */
export interface TraceExport {
  /** Base URL of an OTLP/HTTP receiver; the exporter adds /v1/traces. */
  readonly endpoint: string;
  readonly serviceName: string;
  /** Told if the last spans cannot be sent. */
  readonly reportFailure: (error: unknown) => void;
}

export interface Tracing {
  /** Takes in a request that was answered just now. @param headers of the request */
  readonly record: (record: RequestRecord, headers: Headers) => void;
  /** Sends what has not been sent. Never rejects: a failure is reported. */
  readonly close: () => Promise<void>;
}

/** Milliseconds that a receiver has to answer: so long the worker may take to end. */
const EXPORT_MILLISECONDS = 2000;

const ofHeaders: TextMapGetter<Headers> = {
  keys: (headers) => [...headers.keys()],
  get: (headers, name) => headers.get(name) ?? undefined,
};

/** Spans are sent in batches, every few seconds; a receiver that is away costs them, and nothing else. */
export function openTracing({ endpoint, serviceName, reportFailure }: TraceExport): Tracing {
  const exporter = new OTLPTraceExporter({
    url: `${endpoint.replace(/\/+$/, '')}/v1/traces`,
    timeoutMillis: EXPORT_MILLISECONDS,
  });
  const provider = new TracerProvider({
    resource: defaultResource().merge(resourceFromAttributes({ 'service.name': serviceName })),
    spanProcessors: [new BatchSpanProcessor({ exporter })],
  });
  const tracer = provider.getTracer('ddpnopt-worker');
  const propagator = new W3CTraceContextPropagator();
  return {
    record: (record, headers) => {
      const { method, route, status, milliseconds, requestId, tenant, session, step, code } = record;
      const end = Date.now();
      const parent = propagator.extract(ROOT_CONTEXT, headers, ofHeaders);
      const span = tracer.startSpan(
        `${method} ${route}`,
        {
          kind: SpanKind.SERVER,
          startTime: end - milliseconds,
          // The names of OpenTelemetry's semantic conventions where there are any.
          attributes: {
            'http.request.method': method,
            'http.route': route,
            'http.response.status_code': status,
            'ddpnopt.request_id': requestId,
            'ddpnopt.tenant': tenant,
            ...(session === undefined ? {} : { 'ddpnopt.session': session }),
            ...(step === undefined ? {} : { 'ddpnopt.step': step }),
            ...(code === undefined ? {} : { 'error.type': code }),
          },
        },
        parent,
      );
      if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
      span.end(end);
    },
    close: () => provider.shutdown().catch(reportFailure),
  };
}
