/** GET /openapi.json, and /docs, which shows it with Swagger UI from the assets. */
import type { OpenAPIHono } from '@hono/zod-openapi';
import { html } from 'hono/html';
import type { EdgeEnv } from '../environment.ts';

const DOCUMENT = {
  openapi: '3.1.0',
  info: {
    title: 'DDPNOpt',
    version: '0.1.0',
    license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    description:
      'Differential dynamic programming as an optimizer for neural networks, over HTTP. Create a session with the layers of ' +
      'your network; for each mini-batch send what your forward and backward pass computed; apply the reply.',
  },
};

/** The files of Swagger UI that the page loads. */
const ASSETS = ['swagger-ui.css', 'swagger-ui-bundle.js', 'favicon-32x32.png'] as const;

export function registerDocumentation(app: OpenAPIHono<EdgeEnv>): void {
  app.doc31('/openapi.json', DOCUMENT);
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
