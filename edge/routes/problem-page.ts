/** GET /problems/{code}: what an error means, for people. The `type` of a problem document refers to it. */
import { html } from 'hono/html';
import type { HtmlEscapedString } from 'hono/utils/html';
import { isProblemCode, PROBLEMS, ProblemError } from '../../shared/errors.ts';
import { operationsOf, type OpenApiDocument } from './openapi-document.ts';

/** @throws ProblemError `route_not_found` */
export function problemPage(code: string, document: OpenApiDocument): HtmlEscapedString | Promise<HtmlEscapedString> {
  if (!isProblemCode(code)) {
    throw new ProblemError('route_not_found', {
      detail: `There is no problem ${JSON.stringify(code)}.`,
      remedy: 'Component Problem of /openapi.json lists them all.',
    });
  }
  const { status, title, retryable } = PROBLEMS[code];
  const answering = operationsOf(document).filter(({ operation }) =>
    operation.responses[String(status)]?.description.includes(`\`${code}\``),
  );
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${code}</title>
        <style>
          body {
            font:
              1rem/1.5 system-ui,
              sans-serif;
            max-width: 44rem;
            margin: 3rem auto;
            padding: 0 1rem;
            color-scheme: light dark;
          }
          code {
            font-size: 0.95em;
          }
        </style>
      </head>
      <body>
        <h1>${title}</h1>
        <p><code>${code}</code>, status ${String(status)}.</p>
        <p>
          ${
            retryable
              ? 'The same request may succeed later: send it again after as many seconds as the header Retry-After says.'
              : 'The same request will fail again: change it as its remedy says.'
          }
        </p>
        <p>
          The document that you were answered says more: <code>detail</code> names the field and the value,
          <code>remedy</code> what to do.
        </p>
        ${
          answering.length === 0
            ? ''
            : html`<h2>Where it is answered</h2>
                <ul>
                  ${answering.map(
                    ({ method, path, operation }) =>
                      html`<li><code>${method.toUpperCase()} ${path}</code>: ${operation.summary}</li>`,
                  )}
                </ul>`
        }
        <p><a href="/docs">The API</a></p>
      </body>
    </html>`;
}
