/** The WINE data set: 13 measurements of 178 wines of three cultivators. See ORIGIN.md for its source and licence. */
import type { LabelledData } from '../digits/digits.ts';
import { loadLabelledCsv } from '../labelled-csv.ts';

/** All wines, the measurements in their units, from tenths to thousands: standardise them before training. */
export function loadWine(): Promise<LabelledData> {
  return loadLabelledCsv(new URL('./wine_data.csv', import.meta.url));
}
