/**
 * tfjs-node's binding, whose sources are compiled unchanged, with what it lacks: graphs as functions of the eager context.
 *
 * The binding runs a graph as a session of its own, whose inputs and outputs are tensors on the host: on a GPU weights and
 * curvature would cross the bus twice a step. A function is executed like any other operation (`executeOp` with its name), on
 * handles of tensors that stay where they are.
 *
 * createFunction(graph, inputs, outputs)  makes a function of a GraphDef and returns its name; inputs and outputs name results of
 *                                         nodes as "node:index", separated by commas
 * deleteFunction(name)                    forgets it
 * deviceOf(tensor)                        the name of the device on which a tensor lies
 * cudaVersions()                          versions of the CUDA libraries that have been loaded, null without CUDA
 * hasGpuKernel(operation)                 whether TensorFlow can compute an operation on a GPU, be there one or not
 */
#include <node_api.h>

#undef NAPI_MODULE
#define NAPI_MODULE(name, initializer)
#include "tfjs_binding.cc"

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>
#include "tensorflow/c/c_api.h"
#include "tensorflow/c/eager/c_api.h"
#include "tensorflow/c/kernels.h"

#ifdef DDPNOPT_CUDA
// Declared here rather than by headers of several hundred megabytes.
extern "C" int cudaDriverGetVersion(int *version);
extern "C" int cudaRuntimeGetVersion(int *version);
extern "C" size_t cudnnGetVersion(void);
#endif

namespace tfnodejs {

using Handles = std::unordered_map<int32_t, TFE_TensorHandle *>;

// The backend keeps its context to itself. Names in an explicit instantiation are exempt from access checks.
TFE_Context *ContextOf(TFJSBackend *backend);
Handles &HandlesOf(TFJSBackend *backend);
template <TFE_Context *TFJSBackend::*context, Handles TFJSBackend::*handles>
struct Members {
  friend TFE_Context *ContextOf(TFJSBackend *backend) { return backend->*context; }
  friend Handles &HandlesOf(TFJSBackend *backend) { return backend->*handles; }
};
template struct Members<&TFJSBackend::tfe_context_, &TFJSBackend::tfe_handle_map_>;

namespace {

struct Delete {
  void operator()(TF_Graph *graph) const { TF_DeleteGraph(graph); }
  void operator()(TF_Buffer *buffer) const { TF_DeleteBuffer(buffer); }
  void operator()(TF_Function *function) const { TF_DeleteFunction(function); }
  void operator()(TF_ImportGraphDefOptions *options) const { TF_DeleteImportGraphDefOptions(options); }
};
template <typename T>
using Owned = std::unique_ptr<T, Delete>;

/** Functions of all threads have one numbering: some of them may share a context. */
std::atomic<uint64_t> function_count{0};

bool Arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments) {
  size_t given = count;
  if (napi_get_cb_info(env, info, &given, arguments, nullptr, nullptr) == napi_ok && given == count) return true;
  napi_throw_type_error(env, nullptr, "wrong number of arguments");
  return false;
}

bool Text(napi_env env, napi_value value, std::string *text) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) == napi_ok) {
    text->resize(length);
    if (napi_get_value_string_utf8(env, value, &(*text)[0], length + 1, &length) == napi_ok) return true;
  }
  napi_throw_type_error(env, nullptr, "a string was expected");
  return false;
}

bool Succeeded(napi_env env, TF_Status *status, const char *what) {
  if (TF_GetCode(status) == TF_OK) return true;
  napi_throw_error(env, nullptr, (std::string(what) + ": " + TF_Message(status)).c_str());
  return false;
}

/** Results named "node:index", separated by commas. */
bool Results(napi_env env, TF_Graph *graph, const std::string &names, std::vector<TF_Output> *results) {
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    const std::string name = names.substr(begin, end - begin);
    const size_t colon = name.find(':');
    TF_Operation *node = TF_GraphOperationByName(graph, name.substr(0, colon).c_str());
    if (colon == std::string::npos || node == nullptr) {
      napi_throw_error(env, nullptr, ("the graph has no " + name).c_str());
      return false;
    }
    results->push_back({node, atoi(name.c_str() + colon + 1)});
    begin = end + 1;
  }
  return true;
}

napi_value CreateFunction(napi_env env, napi_callback_info info) {
  napi_value arguments[3];
  if (!Arguments(env, info, 3, arguments)) return nullptr;
  void *bytes;
  size_t length;
  napi_typedarray_type type;
  if (napi_get_typedarray_info(env, arguments[0], &type, &length, &bytes, nullptr, nullptr) != napi_ok ||
      type != napi_uint8_array) {
    napi_throw_type_error(env, nullptr, "the graph must be a Uint8Array");
    return nullptr;
  }
  std::string input_names, output_names;
  if (!Text(env, arguments[1], &input_names) || !Text(env, arguments[2], &output_names)) return nullptr;
  TFJSBackend *const backend = GetTFJSBackend(env);
  if (backend == nullptr) return nullptr;

  TF_AutoStatus status;
  Owned<TF_Graph> graph(TF_NewGraph());
  Owned<TF_Buffer> definition(TF_NewBufferFromString(bytes, length));
  Owned<TF_ImportGraphDefOptions> options(TF_NewImportGraphDefOptions());
  TF_GraphImportGraphDef(graph.get(), definition.get(), options.get(), status.status);
  if (!Succeeded(env, status.status, "the graph is refused")) return nullptr;
  std::vector<TF_Output> inputs, outputs;
  if (!Results(env, graph.get(), input_names, &inputs)) return nullptr;
  if (!Results(env, graph.get(), output_names, &outputs)) return nullptr;

  const std::string name = "ddpnopt_" + std::to_string(function_count++);
  Owned<TF_Function> function(TF_GraphToFunction(
      graph.get(), name.c_str(), /*append_hash_to_fn_name=*/0, /*num_opers=*/-1, nullptr, inputs.size(), inputs.data(),
      outputs.size(), outputs.data(), nullptr, nullptr, nullptr, status.status));
  if (!Succeeded(env, status.status, "the graph makes no function")) return nullptr;
  TFE_ContextAddFunction(ContextOf(backend), function.get(), status.status);
  if (!Succeeded(env, status.status, "the function is refused")) return nullptr;
  napi_value result;
  ENSURE_NAPI_OK_RETVAL(env, napi_create_string_utf8(env, name.c_str(), name.size(), &result), nullptr);
  return result;
}

napi_value DeleteFunction(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  std::string name;
  if (!Arguments(env, info, 1, arguments) || !Text(env, arguments[0], &name)) return nullptr;
  TFJSBackend *const backend = GetTFJSBackend(env);
  if (backend == nullptr) return nullptr;
  TF_AutoStatus status;
  TFE_ContextRemoveFunction(ContextOf(backend), name.c_str(), status.status);
  Succeeded(env, status.status, "the function cannot be removed");
  return nullptr;
}

napi_value DeviceOf(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  int32_t id;
  if (!Arguments(env, info, 1, arguments)) return nullptr;
  ENSURE_NAPI_OK_RETVAL(env, napi_get_value_int32(env, arguments[0], &id), nullptr);
  TFJSBackend *const backend = GetTFJSBackend(env);
  if (backend == nullptr) return nullptr;
  const Handles &handles = HandlesOf(backend);
  const auto found = handles.find(id);
  if (found == handles.end()) {
    napi_throw_error(env, nullptr, "there is no tensor of this number");
    return nullptr;
  }
  TF_AutoStatus status;
  const char *name = TFE_TensorHandleBackingDeviceName(found->second, status.status);
  if (!Succeeded(env, status.status, "the tensor has no device")) return nullptr;
  napi_value result;
  ENSURE_NAPI_OK_RETVAL(env, napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &result), nullptr);
  return result;
}

napi_value CudaVersions(napi_env env, napi_callback_info) {
  napi_value result;
#ifdef DDPNOPT_CUDA
  // 0 stands for a version that is not to be had: without a driver there is none.
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != 0) driver = 0;
  if (cudaRuntimeGetVersion(&runtime) != 0) runtime = 0;
  const std::pair<const char *, int64_t> versions[] = {
      {"driver", driver}, {"runtime", runtime}, {"cudnn", static_cast<int64_t>(cudnnGetVersion())}};
  ENSURE_NAPI_OK_RETVAL(env, napi_create_object(env, &result), nullptr);
  for (const auto &[name, version] : versions) {
    napi_value number;
    ENSURE_NAPI_OK_RETVAL(env, napi_create_int64(env, version, &number), nullptr);
    ENSURE_NAPI_OK_RETVAL(env, napi_set_named_property(env, result, name, number), nullptr);
  }
#else
  ENSURE_NAPI_OK_RETVAL(env, napi_get_null(env, &result), nullptr);
#endif
  return result;
}

napi_value HasGpuKernel(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  std::string operation;
  if (!Arguments(env, info, 1, arguments) || !Text(env, arguments[0], &operation)) return nullptr;
  TF_AutoStatus status;
  Owned<TF_Buffer> kernels(TF_GetRegisteredKernelsForOp(operation.c_str(), status.status));
  if (!Succeeded(env, status.status, "the kernels are not to be had")) return nullptr;
  // A KernelList; the device is field 2 of each KernelDef, a text that is preceded by its length.
  const std::string list(static_cast<const char *>(kernels->data), kernels->length);
  napi_value result;
  ENSURE_NAPI_OK_RETVAL(env, napi_get_boolean(env, list.find("\x12\x03GPU") != std::string::npos, &result), nullptr);
  return result;
}

}  // namespace

}  // namespace tfnodejs

NAPI_MODULE_INIT() {
  using namespace tfnodejs;
  exports = InitTFNodeJSBinding(env, exports);
  if (exports == nullptr) return nullptr;
  const napi_property_descriptor additions[] = {
      {"createFunction", nullptr, CreateFunction, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"deleteFunction", nullptr, DeleteFunction, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"deviceOf", nullptr, DeviceOf, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"cudaVersions", nullptr, CudaVersions, nullptr, nullptr, nullptr, napi_default, nullptr},
      {"hasGpuKernel", nullptr, HasGpuKernel, nullptr, nullptr, nullptr, napi_default, nullptr},
  };
  ENSURE_NAPI_OK_RETVAL(env, napi_define_properties(env, exports, ARRAY_SIZE(additions), additions), nullptr);
  return exports;
}
