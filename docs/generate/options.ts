/** The reference of a session's options as Markdown, from their schemas. */
import * as z from 'zod';
import { sessionDefinitionSchema } from '../../shared/session.ts';

/** What is read of a JSON Schema here. */
interface Schema {
  readonly $ref?: string;
  readonly description?: string;
  readonly type?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly default?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly prefixItems?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly anyOf?: readonly Schema[];
}

const HEADING = `# Options

Made by \`npm run docs:options\` from the schemas in \`shared/\`, where every option stands once. An option with a default may be
left out. A union is told apart by its \`kind\`.
`;

/** The whole page: the session, and every named part of it in the order of its first mention. */
export function renderOptions(): string {
  const document = z.toJSONSchema(sessionDefinitionSchema, { io: 'input' }) as { $defs?: Record<string, Schema> };
  const definitions = document.$defs ?? {};
  const sections: string[] = [];
  const seen = new Set<string>();

  function visit(name: string): void {
    const schema = definitions[name];
    if (schema === undefined || seen.has(name)) return;
    seen.add(name);
    sections.push(section(name, schema));
    mentions(schema).forEach(visit);
  }

  visit('SessionDefinition');
  return `${HEADING}\n${sections.join('\n')}`;
}

function section(name: string, schema: Schema): string {
  const lines = [`## ${name}`, ''];
  if (schema.description !== undefined) lines.push(`${escape(schema.description)}.`, '');
  const alternatives = schema.oneOf ?? schema.anyOf;
  if (alternatives !== undefined) lines.push(`One of ${alternatives.map(typeOf).join(', ')}.`, '');
  else if (schema.enum !== undefined) lines.push(`One of ${schema.enum.map(code).join(', ')}.`, '');
  if (schema.properties !== undefined) {
    lines.push('| field | type and range | default | meaning |', '| --- | --- | --- | --- |');
    for (const [field, property] of Object.entries(schema.properties)) {
      const isRequired = schema.required?.includes(field) === true && property.const === undefined;
      const value = isRequired ? '**required**' : property.default === undefined ? '' : code(property.default);
      lines.push(`| \`${field}\` | ${typeOf(property)} | ${value} | ${escape(property.description ?? '')} |`);
    }
    lines.push('');
  }
  return lines.join('\n');
}

/** Names of the definitions that a schema refers to. */
function mentions(schema: Schema): string[] {
  if (schema.$ref !== undefined) return [schema.$ref.replace('#/$defs/', '')];
  const parts = [
    ...Object.values(schema.properties ?? {}),
    ...(schema.oneOf ?? []),
    ...(schema.anyOf ?? []),
    ...(schema.prefixItems ?? []),
    ...(schema.items === undefined ? [] : [schema.items]),
  ];
  return parts.flatMap(mentions);
}

function typeOf(schema: Schema): string {
  if (schema.$ref !== undefined) {
    const name = schema.$ref.replace('#/$defs/', '');
    return `[${name}](#${name.toLowerCase()})`;
  }
  if (schema.const !== undefined) return code(schema.const);
  if (schema.enum !== undefined) return schema.enum.map(code).join(', ');
  const alternatives = schema.oneOf ?? schema.anyOf;
  if (alternatives !== undefined) return alternatives.map(typeOf).join(' or ');
  if (schema.prefixItems !== undefined) return `[${schema.prefixItems.map(typeOf).join(', ')}]`;
  if (schema.items !== undefined)
    return `list of ${typeOf(schema.items)}, ${range(schema.minItems ?? 0, schema.maxItems)}`;
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = schema;
  const lower = exclusiveMinimum === undefined ? minimum : `> ${String(exclusiveMinimum)}`;
  const upper = exclusiveMaximum === undefined ? maximum : `< ${String(exclusiveMaximum)}`;
  return `${schema.type ?? 'any'}${lower === undefined && upper === undefined ? '' : `, ${range(lower, upper)}`}`;
}

function range(lower: number | string | undefined, upper: number | string | undefined): string {
  const safe = (limit: number | string | undefined): string =>
    limit === undefined || Math.abs(Number(limit)) === Number.MAX_SAFE_INTEGER ? '…' : String(limit);
  return `${safe(lower)} to ${safe(upper)}`;
}

function code(value: unknown): string {
  return `\`${JSON.stringify(value)}\``;
}

function escape(text: string): string {
  return text.replaceAll('|', '\\|');
}
