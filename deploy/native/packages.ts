/**
 * What the native engine is made of, each part pinned by its digest: TensorFlow's libraries from its Python wheels, CUDA's from
 * NVIDIA's, and the sources of the binding from npm.
 */
import { TENSORFLOW_VERSION } from '../../shared/native-engine.ts';

export interface Wheel {
  readonly requirement: string;
  /** What pip calls it. Its last part names the platforms that it is for. */
  readonly file: string;
  readonly sha256: string;
  readonly megabytes: number;
  /** Libraries, by their path in the wheel, which they keep. */
  readonly libraries: readonly string[];
  /**
   * Those that the binding is linked with, so that they are loaded with it. TensorFlow looks for CUDA's by name, and finds what has
   * been loaded: no search path has to be set for it.
   */
  readonly linked: readonly string[];
  /** Where headers begin. */
  readonly headers: readonly string[];
}

export interface NpmPackage {
  readonly specifier: string;
  /** What `npm pack` calls it. */
  readonly file: string;
  readonly integrity: string;
}

export const VARIANTS = ['cpu', 'gpu'] as const;
export type Variant = (typeof VARIANTS)[number];

const TENSORFLOW_LIBRARIES = ['tensorflow/libtensorflow_cc.so.2', 'tensorflow/libtensorflow_framework.so.2'];
const TENSORFLOW_HEADERS = ['tensorflow/c/', 'tensorflow/core/common_runtime/next_pluggable_device/c/', 'tensorflow/core/platform/ctstring', 'tsl/platform/ctstring', 'tsl/platform/platform.h', 'xla/tsl/c/'].map((folder) => `tensorflow/include/${folder}`); // prettier-ignore

/** The libraries are the same in the wheels of every Python; one is chosen so that the digest is one. */
const TENSORFLOW_CPU: Wheel = {
  requirement: `tensorflow-cpu==${TENSORFLOW_VERSION}`,
  file: `tensorflow_cpu-${TENSORFLOW_VERSION}-cp311-cp311-manylinux_2_27_x86_64.whl`,
  sha256: '2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c',
  megabytes: 274,
  libraries: TENSORFLOW_LIBRARIES,
  linked: TENSORFLOW_LIBRARIES,
  headers: TENSORFLOW_HEADERS,
};
const TENSORFLOW_GPU: Wheel = {
  ...TENSORFLOW_CPU,
  requirement: `tensorflow==${TENSORFLOW_VERSION}`,
  file: `tensorflow-${TENSORFLOW_VERSION}-cp311-cp311-manylinux_2_27_x86_64.whl`,
  sha256: '9056fbc9ba04235810b71ae6cbd958a196e8804fb53bbcffbf3e23b56155f124',
  megabytes: 572,
};

/** Factorises three times as fast as TensorFlow does on a CPU, and knows symmetric and triangular products. */
const OPENBLAS: Wheel = {
  requirement: 'scipy-openblas32==0.3.34.481.3',
  file: 'scipy_openblas32-0.3.34.481.3-py3-none-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl',
  sha256: '0595f94cd58c1f8a0d90c975621f4587337a003916b1979e834ebdf2cb5d9504',
  megabytes: 8,
  libraries: ['scipy_openblas32/lib/libscipy_openblas.so'],
  linked: ['scipy_openblas32/lib/libscipy_openblas.so'],
  headers: ['scipy_openblas32/include/'],
};

const CUDNN_PARTS = ['', '_adv', '_cnn', '_engines_precompiled', '_engines_runtime_compiled', '_engines_tensor_ir', '_ext', '_graph', '_heuristic', '_ops']; // prettier-ignore

/**
 * CUDA 12.9 and cuDNN 9: within what tensorflow[and-cuda] asks for, and the last of CUDA 12, which knows the GPUs from Turing to
 * Blackwell. Of that extra's packages nvcc, cuRAND, NCCL and CUPTI are left out: compiling with XLA, several GPUs and profiling need
 * them, and nothing here does.
 */
const CUDA: readonly Wheel[] = [
  {
    requirement: 'nvidia-cuda-runtime-cu12==12.9.79',
    file: 'nvidia_cuda_runtime_cu12-12.9.79-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl',
    sha256: '25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3',
    megabytes: 3,
    ...linkedAll('nvidia/cuda_runtime/lib/libcudart.so.12'),
  },
  {
    requirement: 'nvidia-cublas-cu12==12.9.3.13',
    file: 'nvidia_cublas_cu12-12.9.3.13-py3-none-manylinux_2_27_x86_64.whl',
    sha256: 'd7d51055f161b317c7105ddaae90e71eda059026074ffef93cf7cde2886bfe72',
    megabytes: 581,
    ...linkedAll('nvidia/cublas/lib/libcublas.so.12', 'nvidia/cublas/lib/libcublasLt.so.12'),
  },
  {
    requirement: 'nvidia-cusolver-cu12==11.7.5.82',
    file: 'nvidia_cusolver_cu12-11.7.5.82-py3-none-manylinux_2_27_x86_64.whl',
    sha256: '15da72d1340d29b5b3cf3fd100e3cd53421dde36002eda6ed93811af63c40d88',
    megabytes: 338,
    ...linkedAll('nvidia/cusolver/lib/libcusolver.so.11'),
  },
  {
    requirement: 'nvidia-cusparse-cu12==12.5.10.65',
    file: 'nvidia_cusparse_cu12-12.5.10.65-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl',
    sha256: '73060ce019ac064a057267c585bf1fd5a353734151f87472ff02b2c5c9984e78',
    megabytes: 366,
    ...linkedAll('nvidia/cusparse/lib/libcusparse.so.12'),
  },
  // Not computed with, but TensorFlow takes no GPU unless it finds it.
  {
    requirement: 'nvidia-cufft-cu12==11.4.1.4',
    file: 'nvidia_cufft_cu12-11.4.1.4-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl',
    sha256: 'c67884f2a7d276b4b80eb56a79322a95df592ae5e765cf1243693365ccab4e28',
    megabytes: 200,
    ...linkedAll('nvidia/cufft/lib/libcufft.so.11'),
  },
  {
    requirement: 'nvidia-cudnn-cu12==9.28.0.42',
    file: 'nvidia_cudnn_cu12-9.28.0.42-py3-none-manylinux_2_27_x86_64.whl',
    sha256: '9ff58b7f36dacd0a93e89f8f2957b52466889217963701daa15e577317cfa375',
    megabytes: 716,
    ...linkedAll('nvidia/cudnn/lib/libcudnn.so.9'),
    // The first one loads the others when it needs them.
    libraries: CUDNN_PARTS.map((part) => `nvidia/cudnn/lib/libcudnn${part}.so.9`),
  },
  // What cuSOLVER, cuSPARSE and cuDNN link and compile with while they run.
  {
    requirement: 'nvidia-nvjitlink-cu12==12.9.86',
    file: 'nvidia_nvjitlink_cu12-12.9.86-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl',
    sha256: 'e3f1171dbdc83c5932a45f0f4c99180a70de9bd2718c1ab77d14104f6d7147f9',
    megabytes: 39,
    ...linkedAll('nvidia/nvjitlink/lib/libnvJitLink.so.12'),
  },
  {
    requirement: 'nvidia-cuda-nvrtc-cu12==12.9.86',
    file: 'nvidia_cuda_nvrtc_cu12-12.9.86-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl',
    sha256: '210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4',
    megabytes: 89,
    ...linkedAll('nvidia/cuda_nvrtc/lib/libnvrtc.so.12', 'nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9'),
  },
];

function linkedAll(...libraries: readonly string[]): Pick<Wheel, 'libraries' | 'linked' | 'headers'> {
  return { libraries, linked: libraries, headers: [] };
}

export interface Recipe {
  readonly wheels: readonly Wheel[];
  /** What is compiled with the binding's own sources, relative to the project's folder. */
  readonly sources: readonly string[];
  /** Of the binding's compilation. */
  readonly definitions: readonly string[];
  /** What the wheels take, packed and unpacked side by side. */
  readonly neededBytes: number;
}

const FUNCTIONS = 'deploy/native/binding.cc';
const KERNELS = 'gpu-worker/tensor/tensorflow/kernels/linear_algebra.cc';

export const RECIPES: Readonly<Record<Variant, Recipe>> = {
  cpu: { wheels: [TENSORFLOW_CPU, OPENBLAS], sources: [FUNCTIONS, KERNELS], definitions: [], neededBytes: 1.4e9 },
  // OpenBLAS, too: where there is no GPU it computes on the CPU.
  gpu: {
    wheels: [TENSORFLOW_GPU, OPENBLAS, ...CUDA],
    sources: [FUNCTIONS, KERNELS],
    definitions: ['DDPNOPT_CUDA'],
    neededBytes: 7.6e9,
  },
};

export const BINDING_SOURCES: NpmPackage = {
  specifier: '@tensorflow/tfjs-node@4.22.0',
  file: 'tensorflow-tfjs-node-4.22.0.tgz',
  integrity: 'sha512-uHrXeUlfgkMxTZqHkESSV7zSdKdV0LlsBeblqkuKU9nnfxB1pC6DtoyYVaLxznzZy7WQSegjcohxxCjAf6Dc7w==',
};
export const NODE_HEADERS: NpmPackage = {
  specifier: 'node-api-headers@1.9.0',
  file: 'node-api-headers-1.9.0.tgz',
  integrity: 'sha512-2oNILP4jXwRB4ywnYKjVk1YyJ96n2D4EOVJO6S3oYZ5PtbJrw3Yt9TpAuX3nBLMuzn74rnfGQrv13pS9vC+YiA==',
};
