/** Sequence numbers: a step is applied once, in its turn, however often and in whatever company it is sent. */
import { describe, expect, it } from 'vitest';
import { problemSchema } from '../../shared/errors.ts';
import type { SessionDefinitionInput } from '../../shared/session.ts';
import {
  describeSession,
  expectProblem,
  getStep,
  json,
  newSession,
  putStep,
  stepBody,
  type Answer,
} from './support.ts';
import { serveTests } from './stack.ts';

const stack = serveTests({ engine: 'reference' });

/** Takes the steps with the seeds in order; the replies. */
async function takeSteps(id: string, seeds: readonly number[]): Promise<Uint8Array[]> {
  const replies = [];
  for (const [n, seed] of seeds.entries()) {
    const answer = await putStep(stack.url, id, n, stepBody(seed));
    expect(answer.status).toBe(200);
    replies.push(answer.bytes);
  }
  return replies;
}

function expectReply(answer: Answer, reply: Uint8Array): void {
  expect(answer.status).toBe(200);
  expect(Buffer.compare(answer.bytes, reply)).toBe(0);
}

describe('one after the other', () => {
  it('answers the last step again with the same bytes and does not apply it twice', async () => {
    const { id } = await newSession(stack.url);
    const [, second] = await takeSteps(id, [1, 2]);
    const before = await describeSession(stack.url, id);
    for (let i = 0; i < 3; i++) expectReply(await putStep(stack.url, id, 1, stepBody(2)), second!);
    expectReply(await getStep(stack.url, id, 1), second!);
    const after = await describeSession(stack.url, id);
    expect(after.nextStep).toBe(2);
    expect(after.metrics).toEqual(before.metrics);
    const undisturbed = (await newSession(stack.url)).id;
    const [, , third] = await takeSteps(undisturbed, [1, 2, 3]);
    expectReply(await putStep(stack.url, id, 2, stepBody(3)), third!);
  });

  it('refuses other bytes for a step that was applied', async () => {
    const { id } = await newSession(stack.url);
    const [first] = await takeSteps(id, [1]);
    expectProblem(await putStep(stack.url, id, 0, stepBody(2)), {
      status: 422,
      code: 'step_conflict',
      param: 'n',
      mentions: ['Step 0'],
    });
    expectReply(await putStep(stack.url, id, 0, stepBody(1)), first!);
  });

  it('refuses a step ahead and says which one it expects', async () => {
    const { id } = await newSession(stack.url);
    await takeSteps(id, [1, 2]);
    for (const n of [3, 999_999_999_999_999]) {
      const put = expectProblem(await putStep(stack.url, id, n, stepBody(3)), {
        status: 412,
        code: 'step_out_of_order',
        param: 'n',
        mentions: [String(n), 'step 2'],
      });
      expect(put.expectedStep).toBe(2);
      const get = expectProblem(await getStep(stack.url, id, n), {
        status: 412,
        code: 'step_out_of_order',
        param: 'n',
      });
      expect(get.expectedStep).toBe(2);
    }
  });

  it('says that an older step’s reply is gone, to the same bytes and to others', async () => {
    const { id } = await newSession(stack.url);
    await takeSteps(id, [1, 2, 3]);
    for (const n of [0, 1]) {
      const expected = { status: 410, code: 'reply_not_retained', param: 'n', mentions: [`Step ${n}`] } as const;
      expectProblem(await putStep(stack.url, id, n, stepBody(n + 1)), expected);
      expectProblem(await putStep(stack.url, id, n, stepBody(99)), expected);
      expectProblem(await getStep(stack.url, id, n), expected);
    }
  });

  it('keeps the last reply while later steps are refused', async () => {
    const { id } = await newSession(stack.url);
    const [first] = await takeSteps(id, [1]);
    const bad = stepBody(2);
    bad.fill(0xff, -4); // NaN
    expectProblem(await putStep(stack.url, id, 1, bad), { status: 422, code: 'non_finite_value' });
    expectReply(await getStep(stack.url, id, 0), first!);
    // The number was not used up: other bytes are welcome.
    expect((await putStep(stack.url, id, 1, stepBody(2))).status).toBe(200);
  });
});

describe('at the same time', () => {
  const codeOf = (answer: Answer): string =>
    answer.status === 200 ? 'applied' : problemSchema.parse(json(answer)).code;

  it('answers eight copies of a step with one reply', async () => {
    const { id } = await newSession(stack.url);
    const undisturbed = (await newSession(stack.url)).id;
    const replies = await takeSteps(undisturbed, [1, 2, 3]);
    for (const [n, reply] of replies.entries()) {
      const answers = await Promise.all(Array.from({ length: 8 }, () => putStep(stack.url, id, n, stepBody(n + 1))));
      for (const answer of answers) expectReply(answer, reply);
      expect((await describeSession(stack.url, id)).nextStep).toBe(n + 1);
    }
  });

  it('answers copies of a step with one reply while another session computes', async () => {
    const { id } = await newSession(stack.url);
    const { id: busy } = await newSession(stack.url, HEAVY);
    const [reply] = await takeSteps((await newSession(stack.url)).id, [1]);
    const heavy = putStep(stack.url, busy, 0, stepBody(1, HEAVY.layers));
    const answers = await Promise.all(Array.from({ length: 24 }, () => putStep(stack.url, id, 0, stepBody(1))));
    for (const answer of answers) expectReply(answer, reply!);
    expect((await heavy).status).toBe(200);
  });

  it('applies one of several bodies for the same step', async () => {
    const { id } = await newSession(stack.url);
    const seeds = [11, 12, 13, 14];
    const answers = await Promise.all(seeds.map((seed) => putStep(stack.url, id, 0, stepBody(seed))));
    const codes = answers.map(codeOf);
    expect(codes.toSorted()).toEqual(['applied', 'step_conflict', 'step_conflict', 'step_conflict']);
    const winner = codes.indexOf('applied');
    const [expected] = await takeSteps((await newSession(stack.url)).id, [seeds[winner]!]);
    expectReply(answers[winner]!, expected!);
    expectReply(await getStep(stack.url, id, 0), expected!);
    expect((await describeSession(stack.url, id)).nextStep).toBe(1);
  });

  it('bounds the steps that wait: one is applied, the others are refused at once or in their turn', async () => {
    const { id } = await newSession(stack.url);
    const { id: busy } = await newSession(stack.url, HEAVY);
    const heavy = putStep(stack.url, busy, 0, stepBody(1, HEAVY.layers));
    const seeds = Array.from({ length: 40 }, (_, i) => 100 + i);
    const answers = await Promise.all(seeds.map((seed) => putStep(stack.url, id, 0, stepBody(seed))));
    for (const answer of answers) {
      const code = codeOf(answer);
      expect(['applied', 'step_conflict', 'queue_full']).toContain(code);
      if (code === 'queue_full') expectProblem(answer, { status: 429, code, mentions: ['4 requests'] });
    }
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1);
    expect((await heavy).status).toBe(200);
    // A refusal for want of room is no verdict: the session goes on.
    const { nextStep } = await describeSession(stack.url, id);
    expect(nextStep).toBe(1);
    expect((await putStep(stack.url, id, 1, stepBody(2))).status).toBe(200);
  });

  it('keeps interleaved sessions apart', async () => {
    const count = 5;
    const seeds = (session: number) => [1, 2, 3, 4].map((k) => 10 * session + k);
    const alone = [];
    for (let session = 0; session < count; session++) {
      alone.push(await takeSteps((await newSession(stack.url)).id, seeds(session)));
    }
    const together = await Promise.all(
      alone.map(async (_, session) => takeSteps((await newSession(stack.url)).id, seeds(session))),
    );
    expect(together.map((replies) => replies.map((reply) => Buffer.from(reply).toString('base64')))).toEqual(
      alone.map((replies) => replies.map((reply) => Buffer.from(reply).toString('base64'))),
    );
  });

  it('lets a deletion win over the steps that wait', async () => {
    const { id } = await newSession(stack.url);
    const { id: busy } = await newSession(stack.url, HEAVY);
    const heavy = putStep(stack.url, busy, 0, stepBody(1, HEAVY.layers));
    const [deleted, ...steps] = await Promise.all([
      fetch(new URL(`/v1/sessions/${id}`, stack.url), { method: 'DELETE' }),
      ...Array.from({ length: 4 }, () => putStep(stack.url, id, 0, stepBody(1))),
    ]);
    expect(deleted.status).toBe(204);
    for (const step of steps) {
      if (step.status !== 200) expectProblem(step, { status: 404, code: 'session_not_found', mentions: [id] });
    }
    expect((await heavy).status).toBe(200);
    expectProblem(await putStep(stack.url, id, 0, stepBody(1)), { status: 404, code: 'session_not_found' });
  });
});

/** A step that keeps the worker busy for some tenths of a second. */
const HEAVY = {
  layers: [{ name: 'wide', kind: 'dense', inputs: 500, outputs: 200 }],
} satisfies SessionDefinitionInput;
