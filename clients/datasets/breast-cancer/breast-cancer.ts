/** Breast Cancer Wisconsin (Diagnostic): 30 measurements of 569 tumours, two classes. See ORIGIN.md for its source and licence. */
import type { LabelledData } from '../digits/digits.ts';
import { loadLabelledCsv } from '../labelled-csv.ts';

/** All tumours, the measurements in their units, from thousandths to thousands: standardise them before training. */
export function loadBreastCancer(): Promise<LabelledData> {
  return loadLabelledCsv(new URL('./breast_cancer.csv', import.meta.url));
}
