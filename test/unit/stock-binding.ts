/** The binding as npm's packages have it, of the one that `npm run native` builds. */
import type { StockBinding } from '../../gpu-worker/tensor/tensorflow/binding.ts';

/** Members of a binding cannot be enumerated. */
export function stock(from: StockBinding): StockBinding {
  const { createTensor, deleteTensor, tensorDataSync, executeOp, loadSavedModel } = from;
  const { deleteSavedModel, runSavedModel, isUsingGpuDevice, TF_Version } = from;
  return { createTensor, deleteTensor, tensorDataSync, executeOp, loadSavedModel, deleteSavedModel, runSavedModel, isUsingGpuDevice, TF_Version }; // prettier-ignore
}
