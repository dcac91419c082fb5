// Linear algebra of OpenBLAS as operations of TensorFlow, registered when the binding that this is linked into is loaded.
//
// TensorFlow factorises with Eigen on one core, three times as slowly as OpenBLAS does, and has no product of a matrix with its own
// transpose, of which half is enough, nor one with a triangular matrix. Tensors are float32 and row-major. Factorisations are
// computed in float64; where there is none, the results are NaN throughout.
//
// OpenBLAS runs on the calling thread only: its own threads wait for each other by spinning, which costs milliseconds a call on a
// machine that does anything else. Large products are divided among threads here instead.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cblas.h"
#include "lapacke.h"
#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

// The wheel's library keeps its names apart from those of any other BLAS in the process.
#define OPENBLAS(name) scipy_##name

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Multiplications from which on a part of a product is worth a thread of its own, which takes some ten microseconds to start.
constexpr double kWorthAThread = 4e6;

struct StatusDeleter {
  void operator()(TF_Status* status) const { TF_DeleteStatus(status); }
};
struct TensorDeleter {
  void operator()(TF_Tensor* tensor) const { TF_DeleteTensor(tensor); }
};
using Status = std::unique_ptr<TF_Status, StatusDeleter>;
using TensorPointer = std::unique_ptr<TF_Tensor, TensorDeleter>;

void require(const Status& status) {
  if (TF_GetCode(status.get()) != TF_OK) throw std::runtime_error(TF_Message(status.get()));
}

// The inputs and outputs of one call of a kernel. Throws std::exception.
class Call {
 public:
  explicit Call(TF_OpKernelContext* context) : context_(context), status_(TF_NewStatus()) {}

  // A matrix or, with one dimension, a column.
  struct Input {
    const float* values;
    int rows;
    int columns;
  };

  Input input(int index) {
    TF_Tensor* tensor = nullptr;
    TF_GetInput(context_, index, &tensor, status_.get());
    inputs_.emplace_back(tensor);
    require(status_);
    const int rank = TF_NumDims(tensor);
    if (rank != 1 && rank != 2) throw std::invalid_argument("expected a vector or a matrix");
    const int columns = rank == 1 ? 1 : static_cast<int>(TF_Dim(tensor, 1));
    return {static_cast<const float*>(TF_TensorData(tensor)), static_cast<int>(TF_Dim(tensor, 0)), columns};
  }

  Input square(int index) {
    const Input matrix = input(index);
    if (matrix.rows != matrix.columns) throw std::invalid_argument("expected a square matrix");
    return matrix;
  }

  float* output(int index, std::vector<int64_t> shape) {
    size_t bytes = sizeof(float);
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    outputs_.emplace_back(TF_AllocateOutput(context_, index, TF_FLOAT, shape.data(), static_cast<int>(shape.size()), bytes,
                                            status_.get()));
    require(status_);
    return static_cast<float*>(TF_TensorData(outputs_.back().get()));
  }

 private:
  TF_OpKernelContext* context_;
  Status status_;
  std::vector<TensorPointer> inputs_;
  std::vector<TensorPointer> outputs_;
};

size_t area(int n) { return static_cast<size_t>(n) * static_cast<size_t>(n); }

// Runs a task for each of as many parts as the work is worth, all but the first on threads of their own.
void inParallel(double work, int most, const std::function<void(int part, int parts)>& task) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int parts = std::clamp(static_cast<int>(work / kWorthAThread), 1, std::min(cores, std::max(1, most)));
  std::vector<std::thread> threads;
  for (int part = 1; part < parts; part++) threads.emplace_back(task, part, parts);
  task(0, parts);
  for (std::thread& thread : threads) thread.join();
}

// Where part k of a triangle's rows begins, if all parts have the same area.
int triangleRow(int rows, int part, int parts) {
  return static_cast<int>(std::lround(rows * std::sqrt(static_cast<double>(part) / parts)));
}

// The lower triangle of a symmetric matrix in float64, the lower Cholesky factor in its place; false if there is none.
// LAPACK counts by columns: what is lower here is upper there.
bool factorise(std::vector<double>& matrix, int n) {
  if (OPENBLAS(LAPACKE_dpotrf_work)(LAPACK_COL_MAJOR, 'U', n, matrix.data(), n) != 0) return false;
  for (int row = 0; row < n; row++) {
    const double pivot = matrix[static_cast<size_t>(row) * n + row];
    // A NaN is not greater than anything.
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
  }
  return true;
}

void writeLower(const std::vector<double>& matrix, int n, float* result) {
  for (int row = 0; row < n; row++) {
    const size_t begin = static_cast<size_t>(row) * n;
    for (int column = 0; column <= row; column++) result[begin + column] = static_cast<float>(matrix[begin + column]);
    std::fill(result + begin + row + 1, result + begin + n, 0.0f);
  }
}

std::vector<double> inDouble(const Call::Input& matrix) {
  return {matrix.values, matrix.values + static_cast<size_t>(matrix.rows) * matrix.columns};
}

// matrix [n, n] → L [n, n] with L Lᵀ = matrix.
void cholesky(Call& call) {
  const Call::Input matrix = call.square(0);
  const int n = matrix.rows;
  float* result = call.output(0, {n, n});
  std::vector<double> factor = inDouble(matrix);
  if (factorise(factor, n)) writeLower(factor, n, result);
  else std::fill(result, result + area(n), kNaN);
}

// matrix [n, n] → L⁻¹ [n, n] with L Lᵀ = matrix.
void inverseCholesky(Call& call) {
  const Call::Input matrix = call.square(0);
  const int n = matrix.rows;
  float* result = call.output(0, {n, n});
  std::vector<double> factor = inDouble(matrix);
  const bool exists =
      factorise(factor, n) && OPENBLAS(LAPACKE_dtrtri_work)(LAPACK_COL_MAJOR, 'U', 'N', n, factor.data(), n) == 0;
  if (exists) writeLower(factor, n, result);
  else std::fill(result, result + area(n), kNaN);
}

// L [n, n], b [n] → x [n] with L Lᵀ x = b.
void choleskySolve(Call& call) {
  const Call::Input factor = call.square(0);
  const Call::Input right = call.input(1);
  const int n = factor.rows;
  if (right.rows * right.columns != n) throw std::invalid_argument("expected as many right-hand values as the factor has rows");
  float* result = call.output(0, {n});
  std::vector<double> x(right.values, right.values + n);
  const auto row = [&](int index) { return factor.values + static_cast<size_t>(index) * n; };
  for (int i = 0; i < n; i++) {
    const float pivot = row(i)[i];
    if (!(pivot > 0) || !std::isfinite(pivot)) {
      std::fill(result, result + n, kNaN);
      return;
    }
    double sum = x[i];
    for (int j = 0; j < i; j++) sum -= static_cast<double>(row(i)[j]) * x[j];
    x[i] = sum / pivot;
  }
  // Lᵀ by the rows of L, which lie together in memory.
  for (int i = n - 1; i >= 0; i--) {
    x[i] /= row(i)[i];
    for (int j = 0; j < i; j++) x[j] -= row(i)[j] * x[i];
  }
  std::copy(x.begin(), x.end(), result);
}

// symmetric matrix [n, n] → eigenvalues [n], ascending, and eigenvectors [n, n], one per column.
void eigenSymmetric(Call& call) {
  const Call::Input matrix = call.square(0);
  const int n = matrix.rows;
  float* values = call.output(0, {n});
  float* vectors = call.output(1, {n, n});
  std::vector<double> rows = inDouble(matrix);
  std::vector<double> spectrum(n);
  const bool finite = std::all_of(rows.begin(), rows.end(), [](double value) { return std::isfinite(value); });
  if (!finite || OPENBLAS(LAPACKE_dsyevd)(LAPACK_COL_MAJOR, 'V', 'U', n, rows.data(), n, spectrum.data()) != 0) {
    std::fill(values, values + n, kNaN);
    std::fill(vectors, vectors + area(n), kNaN);
    return;
  }
  std::copy(spectrum.begin(), spectrum.end(), values);
  // LAPACK's columns are rows here.
  for (int row = 0; row < n; row++) {
    for (int column = 0; column < n; column++) {
      vectors[static_cast<size_t>(row) * n + column] = static_cast<float>(rows[static_cast<size_t>(column) * n + row]);
    }
  }
}

// Copies rows [begin, end) of the lower triangle into the upper one, in tiles that stay in the cache.
void mirror(float* matrix, int n, int begin, int end) {
  constexpr int kTile = 32;
  for (int top = begin; top < end; top += kTile) {
    for (int left = 0; left < end; left += kTile) {
      for (int row = top; row < std::min(top + kTile, end); row++) {
        for (int column = left; column < std::min(left + kTile, row); column++) {
          matrix[static_cast<size_t>(column) * n + row] = matrix[static_cast<size_t>(row) * n + column];
        }
      }
    }
  }
}

// X [n, k] → X Xᵀ [n, n], or X [k, n] → XᵀX.
void symmetricProduct(Call& call, bool transposed) {
  const Call::Input factor = call.input(0);
  const int n = transposed ? factor.columns : factor.rows;
  const int k = transposed ? factor.rows : factor.columns;
  const int stride = factor.columns;
  float* result = call.output(0, {n, n});
  if (k == 0) {
    std::fill(result, result + area(n), 0.0f);
    return;
  }
  const auto first = transposed ? CblasTrans : CblasNoTrans;
  const auto second = transposed ? CblasNoTrans : CblasTrans;
  const auto from = [&](int row) { return factor.values + static_cast<size_t>(row) * (transposed ? 1 : stride); };
  inParallel(0.5 * n * n * k, n / 64, [&](int part, int parts) {
    const int begin = triangleRow(n, part, parts);
    const int end = triangleRow(n, part + 1, parts);
    const int rows = end - begin;
    float* at = result + static_cast<size_t>(begin) * n;
    if (begin > 0) {
      OPENBLAS(cblas_sgemm)(CblasRowMajor, first, second, rows, begin, k, 1, from(begin), stride, from(0), stride, 0, at, n);
    }
    OPENBLAS(cblas_ssyrk)(CblasRowMajor, CblasLower, first, rows, k, 1, from(begin), stride, 0, at + begin, n);
    mirror(result, n, begin, end);
  });
}

// Ranges of [0, size) among threads.
void inRanges(double work, int size, const std::function<void(int begin, int count)>& task) {
  inParallel(work, size / 32, [&](int part, int parts) {
    const auto at = [&](int index) { return static_cast<int>(static_cast<int64_t>(size) * index / parts); };
    task(at(part), at(part + 1) - at(part));
  });
}

// X [m, n], T [n, n] upper triangular → X T or X Tᵀ [m, n].
void timesUpper(Call& call, bool transposed) {
  const Call::Input factor = call.input(0);
  const Call::Input triangle = call.square(1);
  const int n = triangle.rows;
  if (factor.columns != n) throw std::invalid_argument("the inner dimensions differ");
  float* result = call.output(0, {factor.rows, n});
  inRanges(0.5 * factor.rows * n * n, factor.rows, [&](int begin, int count) {
    const size_t offset = static_cast<size_t>(begin) * n;
    std::copy_n(factor.values + offset, static_cast<size_t>(count) * n, result + offset);
    OPENBLAS(cblas_strmm)(CblasRowMajor, CblasRight, CblasUpper, transposed ? CblasTrans : CblasNoTrans, CblasNonUnit,
                          count, n, 1, triangle.values, n, result + offset, n);
  });
}

// T [n, n] upper triangular, X [n, m] → T X [n, m].
void upperTimes(Call& call) {
  const Call::Input triangle = call.square(0);
  const Call::Input factor = call.input(1);
  const int n = triangle.rows;
  const int m = factor.columns;
  if (factor.rows != n) throw std::invalid_argument("the inner dimensions differ");
  float* result = call.output(0, {n, m});
  inRanges(0.5 * n * n * m, m, [&](int begin, int count) {
    for (int row = 0; row < n; row++) {
      const size_t offset = static_cast<size_t>(row) * m + begin;
      std::copy_n(factor.values + offset, count, result + offset);
    }
    OPENBLAS(cblas_strmm)(CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, n, count, 1,
                          triangle.values, n, result + begin, m);
  });
}

template <void (*compute)(Call&)>
void run(void*, TF_OpKernelContext* context) {
  try {
    Call call(context);
    compute(call);
  } catch (const std::exception& error) {
    const Status status(TF_NewStatus());
    TF_SetStatus(status.get(), TF_INVALID_ARGUMENT, error.what());
    TF_OpKernelContext_Failure(context, status.get());
  }
}

void gramOfRows(Call& call) { symmetricProduct(call, false); }
void gramOfColumns(Call& call) { symmetricProduct(call, true); }
void timesUpperAsIs(Call& call) { timesUpper(call, false); }
void timesUpperTransposed(Call& call) { timesUpper(call, true); }

void unknownShape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

void registerOperation(const char* name, std::vector<const char*> inputs, std::vector<const char*> outputs,
                       void (*compute)(void*, TF_OpKernelContext*)) {
  const Status status(TF_NewStatus());
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(name);
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(definition, input);
  for (const char* output : outputs) TF_OpDefinitionBuilderAddOutput(definition, output);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, unknownShape);
  TF_RegisterOpDefinition(definition, status.get());
  require(status);
  TF_KernelBuilder* kernel = TF_NewKernelBuilder(name, "CPU", nullptr, compute, nullptr);
  TF_RegisterKernelBuilder(name, kernel, status.get());
  require(status);
}

const bool registered = [] {
  OPENBLAS(openblas_set_num_threads)(1);
  registerOperation("DdpnoptCholesky", {"matrix: float"}, {"factor: float"}, run<cholesky>);
  registerOperation("DdpnoptCholeskySolve", {"factor: float", "right: float"}, {"solution: float"}, run<choleskySolve>);
  registerOperation("DdpnoptInverseCholesky", {"matrix: float"}, {"inverse: float"}, run<inverseCholesky>);
  registerOperation("DdpnoptEigenSymmetric", {"matrix: float"}, {"values: float", "vectors: float"}, run<eigenSymmetric>);
  registerOperation("DdpnoptGramOfRows", {"matrix: float"}, {"product: float"}, run<gramOfRows>);
  registerOperation("DdpnoptGramOfColumns", {"matrix: float"}, {"product: float"}, run<gramOfColumns>);
  registerOperation("DdpnoptTimesUpper", {"left: float", "triangle: float"}, {"product: float"}, run<timesUpperAsIs>);
  registerOperation("DdpnoptTimesUpperTransposed", {"left: float", "triangle: float"}, {"product: float"},
                    run<timesUpperTransposed>);
  registerOperation("DdpnoptUpperTimes", {"triangle: float", "right: float"}, {"product: float"}, run<upperTimes>);
  return true;
}();

}  // namespace
