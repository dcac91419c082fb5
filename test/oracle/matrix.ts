/**
 * Small dense float64 matrices, row-major. Written to be obviously right rather than fast: every function allocates its
 * result, every shape mismatch throws.
 */

/** Entry (i, j) is `data[i * cols + j]`. A column vector is a matrix with `cols = 1`. */
export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly data: Float64Array;
}

/** The rows × cols matrix whose entry (i, j) is `entry(i, j)`. */
export function build(rows: number, cols: number, entry: (i: number, j: number) => number): Matrix {
  const data = new Float64Array(rows * cols);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) data[i * cols + j] = entry(i, j);
  }
  return { rows, cols, data };
}

export function zeros(rows: number, cols: number): Matrix {
  return build(rows, cols, () => 0);
}

export function identity(n: number): Matrix {
  return build(n, n, (i, j) => (i === j ? 1 : 0));
}

export function columnVector(values: ArrayLike<number>): Matrix {
  return { rows: values.length, cols: 1, data: Float64Array.from(values) };
}

/** diag(values). */
export function diagonal(values: ArrayLike<number>): Matrix {
  const v = columnVector(values);
  return build(v.rows, v.rows, (i, j) => (i === j ? at(v, i, 0) : 0));
}

/** Entry (i, j). */
export function at(a: Matrix, i: number, j: number): number {
  const value = i >= 0 && i < a.rows && j >= 0 && j < a.cols ? a.data[i * a.cols + j] : undefined;
  if (value === undefined) throw new RangeError(`entry (${i}, ${j}) is outside a ${shape(a)} matrix`);
  return value;
}

/** Row i as a 1 × cols matrix. */
export function row(a: Matrix, i: number): Matrix {
  return build(1, a.cols, (_, j) => at(a, i, j));
}

/** The first `count` rows. */
export function firstRows(a: Matrix, count: number): Matrix {
  return build(count, a.cols, (i, j) => at(a, i, j));
}

/** The same entries in row-major order under another shape. */
export function reshape(a: Matrix, rows: number, cols: number): Matrix {
  if (rows * cols !== a.data.length) throw new RangeError(`cannot reshape ${shape(a)} to ${rows}×${cols}`);
  return { rows, cols, data: a.data.slice() };
}

/** Row-major flattening to a column vector. */
export function vec(a: Matrix): Matrix {
  return reshape(a, a.data.length, 1);
}

export function transpose(a: Matrix): Matrix {
  return build(a.cols, a.rows, (i, j) => at(a, j, i));
}

export function add(a: Matrix, b: Matrix): Matrix {
  requireSameShape(a, b);
  return build(a.rows, a.cols, (i, j) => at(a, i, j) + at(b, i, j));
}

export function subtract(a: Matrix, b: Matrix): Matrix {
  return add(a, scale(b, -1));
}

export function scale(a: Matrix, factor: number): Matrix {
  return build(a.rows, a.cols, (i, j) => factor * at(a, i, j));
}

/** Elementwise product a ∘ b. */
export function hadamard(a: Matrix, b: Matrix): Matrix {
  requireSameShape(a, b);
  return build(a.rows, a.cols, (i, j) => at(a, i, j) * at(b, i, j));
}

/** The product of two or more matrices, from left to right. */
export function multiply(first: Matrix, ...rest: readonly Matrix[]): Matrix {
  return rest.reduce((a, b) => {
    if (a.cols !== b.rows) throw new RangeError(`cannot multiply ${shape(a)} by ${shape(b)}`);
    const data = new Float64Array(a.rows * b.cols);
    for (let i = 0; i < a.rows; i++) {
      for (let l = 0; l < a.cols; l++) {
        const factor = at(a, i, l);
        if (factor === 0) continue; // most entries of the stacked batch's matrices
        for (let j = 0; j < b.cols; j++) data[i * b.cols + j] = (data[i * b.cols + j] ?? 0) + factor * at(b, l, j);
      }
    }
    return { rows: a.rows, cols: b.cols, data };
  }, first);
}

/** Kronecker product: block (i, j) of the result is a_ij · b. */
export function kron(a: Matrix, b: Matrix): Matrix {
  return build(
    a.rows * b.rows,
    a.cols * b.cols,
    (i, j) => at(a, Math.floor(i / b.rows), Math.floor(j / b.cols)) * at(b, i % b.rows, j % b.cols),
  );
}

/** blockdiag(blocks[0], blocks[1], …); the blocks need not be square. */
export function blockDiagonal(blocks: readonly Matrix[]): Matrix {
  const rows = blocks.reduce((sum, block) => sum + block.rows, 0);
  const cols = blocks.reduce((sum, block) => sum + block.cols, 0);
  const data = new Float64Array(rows * cols);
  let top = 0;
  let left = 0;
  for (const block of blocks) {
    for (let i = 0; i < block.rows; i++) {
      for (let j = 0; j < block.cols; j++) data[(top + i) * cols + left + j] = at(block, i, j);
    }
    top += block.rows;
    left += block.cols;
  }
  return { rows, cols, data };
}

/** Blocks of equal width, one above the other. */
export function stackRows(blocks: readonly Matrix[]): Matrix {
  const cols = blocks[0]?.cols ?? 0;
  for (const block of blocks) {
    if (block.cols !== cols) throw new RangeError(`cannot stack ${shape(block)} under blocks of ${cols} columns`);
  }
  const data = Float64Array.from(blocks.flatMap((block) => [...block.data]));
  return { rows: blocks.reduce((sum, block) => sum + block.rows, 0), cols, data };
}

/** Blocks of equal height, side by side. */
export function stackColumns(blocks: readonly Matrix[]): Matrix {
  return transpose(stackRows(blocks.map(transpose)));
}

export function trace(a: Matrix): number {
  requireSquare(a);
  let sum = 0;
  for (let i = 0; i < a.rows; i++) sum += at(a, i, i);
  return sum;
}

/** X with A X = B, by Gaussian elimination (LU) with partial pivoting. */
export function solve(a: Matrix, b: Matrix): Matrix {
  requireSquare(a);
  if (a.rows !== b.rows) throw new RangeError(`cannot solve ${shape(a)} against ${shape(b)}`);
  const n = a.rows;
  const lu = Array.from({ length: n }, (_, i) => row(a, i).data);
  const x = Array.from({ length: n }, (_, i) => row(b, i).data);
  for (let p = 0; p < n; p++) {
    let pivot = p;
    for (let i = p + 1; i < n; i++) {
      if (Math.abs(entry(lu, i, p)) > Math.abs(entry(lu, pivot, p))) pivot = i;
    }
    if (entry(lu, pivot, p) === 0) throw new RangeError(`matrix is singular: no pivot in column ${p}`);
    swap(lu, p, pivot);
    swap(x, p, pivot);
    for (let i = p + 1; i < n; i++) {
      const factor = entry(lu, i, p) / entry(lu, p, p);
      subtractMultiple(lu, i, p, factor);
      subtractMultiple(x, i, p, factor);
    }
  }
  for (let p = n - 1; p >= 0; p--) {
    for (let i = p + 1; i < n; i++) subtractMultiple(x, p, i, entry(lu, p, i));
    const pivot = entry(lu, p, p);
    x[p] = rowOf(x, p).map((value) => value / pivot);
  }
  return build(n, b.cols, (i, j) => entry(x, i, j));
}

export function inverse(a: Matrix): Matrix {
  return solve(a, identity(a.rows));
}

/** Eigenvalues λ, ascending, and eigenvectors, one per column of V, of a symmetric matrix: A = V diag(λ) Vᵀ. */
export interface Eigensystem {
  readonly values: Float64Array;
  readonly vectors: Matrix;
}

/**
 * The cyclic Jacobi method: plane rotations that annihilate one off-diagonal entry after the other, until what is left of them
 * is rounding (Golub & Van Loan, "Matrix Computations", section 8.5).
 */
export function eigenSymmetric(symmetric: Matrix): Eigensystem {
  requireSquare(symmetric);
  const n = symmetric.rows;
  let a = symmetric;
  let v = identity(n);
  const size = Math.sqrt(a.data.reduce((sum, value) => sum + value * value, 0));
  const offDiagonal = (): number => Math.max(0, ...a.data.map((x, k) => (k % (n + 1) === 0 ? 0 : Math.abs(x))));
  for (let sweep = 0; offDiagonal() > 1e-15 * size; sweep++) {
    if (sweep === 50) throw new RangeError(`the Jacobi method does not converge on this ${shape(a)} matrix`);
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (at(a, p, q) === 0) continue;
        const theta = (at(a, q, q) - at(a, p, p)) / (2 * at(a, p, q));
        const tangent = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
        const cosine = 1 / Math.hypot(tangent, 1);
        const sine = tangent * cosine;
        const rotation = build(n, n, (i, j) => {
          if (i === j) return i === p || i === q ? cosine : 1;
          if (i === p && j === q) return sine;
          return i === q && j === p ? -sine : 0;
        });
        a = multiply(transpose(rotation), a, rotation);
        v = multiply(v, rotation);
      }
    }
  }
  const order = Array.from({ length: n }, (_, i) => i).sort((i, j) => at(a, i, i) - at(a, j, j));
  return {
    values: Float64Array.from(order, (i) => at(a, i, i)),
    vectors: build(n, n, (i, j) => at(v, i, order[j] ?? j)),
  };
}

function rowOf(rows: readonly Float64Array[], i: number): Float64Array {
  const values = rows[i];
  if (values === undefined) throw new RangeError(`no row ${i}`);
  return values;
}

function entry(rows: readonly Float64Array[], i: number, j: number): number {
  const value = rowOf(rows, i)[j];
  if (value === undefined) throw new RangeError(`no entry (${i}, ${j})`);
  return value;
}

function swap(rows: Float64Array[], i: number, j: number): void {
  const held = rowOf(rows, i);
  rows[i] = rowOf(rows, j);
  rows[j] = held;
}

/** row_i ← row_i − factor · row_j. */
function subtractMultiple(rows: Float64Array[], i: number, j: number, factor: number): void {
  if (factor === 0) return;
  const subtracted = rowOf(rows, j);
  rows[i] = rowOf(rows, i).map((value, l) => value - factor * (subtracted[l] ?? Number.NaN));
}

function shape(a: Matrix): string {
  return `${a.rows}×${a.cols}`;
}

function requireSameShape(a: Matrix, b: Matrix): void {
  if (a.rows !== b.rows || a.cols !== b.cols) throw new RangeError(`shapes differ: ${shape(a)} and ${shape(b)}`);
}

function requireSquare(a: Matrix): void {
  if (a.rows !== a.cols) throw new RangeError(`a ${shape(a)} matrix is not square`);
}
