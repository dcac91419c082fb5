/** GET /openapi.json; /docs, which shows it with Swagger UI from the assets; and /problems/{code}, which the errors' `type` refers to. */
import type { OpenAPIHono } from '@hono/zod-openapi';
import { html } from 'hono/html';
import type { EdgeEnv } from '../environment.ts';
import { openApiDocument, type OpenApiDocument } from './openapi-document.ts';
import { problemPage } from './problem-page.ts';

/** The files of Swagger UI that the page loads. */
const ASSETS = ['swagger-ui.css', 'swagger-ui-bundle.js', 'favicon-32x32.png'] as const;

export function registerDocumentation(app: OpenAPIHono<EdgeEnv>): void {
  // All routes are registered when the first request comes, and no more.
  let document: OpenApiDocument | undefined;
  const ofAll = (): OpenApiDocument => (document ??= openApiDocument(app));
  app.get('/openapi.json', (c) => c.json(ofAll()));
  app.get('/problems/:code', (c) => c.html(problemPage(c.req.param('code'), ofAll())));
  app.get('/docs', (c) =>
    c.html(
      html`<!doctype html>
        <html lang="en">
          <head>
            <meta charset="utf-8" />
            <meta name="viewport" content="width=device-width, initial-scale=1" />
            <title>DDPNOpt API</title>
            <link rel="stylesheet" href="/docs/swagger-ui.css" />
            <link rel="icon" href="/docs/favicon-32x32.png" />
          </head>
          <body>
            <div id="api"></div>
            <script src="/docs/swagger-ui-bundle.js"></script>
            <script>
              SwaggerUIBundle({ url: '/openapi.json', dom_id: '#api', deepLinking: true });
            </script>
          </body>
        </html>`,
    ),
  );
  for (const file of ASSETS) {
    app.get(`/docs/${file}`, (c) => c.get('platform').asset(`/${file}`));
  }
}
