/** The element at an index. @throws RangeError if there is none */
export function at<Item>(items: ArrayLike<Item>, index: number): Item {
  const item = items[index];
  if (item === undefined) throw new RangeError(`there is no element ${String(index)} among ${String(items.length)}`);
  return item;
}
