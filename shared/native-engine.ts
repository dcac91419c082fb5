/** Where `npm run native` puts the native TensorFlow engine, and where the worker looks for it. */

export const TENSORFLOW_VERSION = '2.21.0';

/** The finished engine, relative to the project's folder. Another version of TensorFlow is another folder. */
export const NATIVE_ENGINE_FOLDER = `.native/tensorflow-${TENSORFLOW_VERSION}`;

/** The N-API module in that folder; TensorFlow's libraries lie beside it. */
export const NATIVE_ENGINE_BINDING = 'tfjs_binding.node';
