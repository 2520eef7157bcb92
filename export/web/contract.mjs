// The contract in an ONNX file, in plain JavaScript: onnxruntime's JavaScript packages do not give a file's metadata.

/** Metadata key that holds the contract, and the version of its form that is known here. */
const KEY = "kerascv_course.contract";
const VERSION = 2;

/** Longest contract that is read, bytes, and largest image that a network may take, pixels. */
const MAX_BYTES = 16_000_000;
const MAX_AREA = 4096 * 4096;

/**
 * The contract of an ONNX file.
 *
 * @param {Uint8Array} file the whole file.
 * @returns {object} what export/contract.py writes.
 * @throws {Error} no ONNX file, no contract, or a contract of another version.
 */
export function readContract(file) {
  const text = readMetadata(file).get(KEY);
  if (text === undefined) throw new Error("this ONNX file has no contract, so its input and labels are unknown");
  const contract = JSON.parse(text);
  if (contract.version !== VERSION) {
    throw new Error(`the contract has version ${contract.version}; this reader knows version ${VERSION}`);
  }
  const { height, width, channels } = contract.input;
  if ((height ?? 1) * (width ?? 1) > MAX_AREA || ![1, 3].includes(channels)) {
    throw new Error(`the contract asks for images of ${height}×${width} pixels and ${channels} channels`);
  }
  return contract;
}

/**
 * The metadata properties of an ONNX file: field 14 of ModelProto, each a pair of texts (onnx.proto: StringStringEntryProto).
 *
 * @param {Uint8Array} file the whole file.
 * @returns {Map<string, string>}
 */
export function readMetadata(file) {
  const text = (bytes) => new TextDecoder().decode(bytes);
  const properties = new Map();
  for (const [field, bytes] of fields(file)) {
    if (field !== 14 || !bytes || bytes.length > MAX_BYTES) continue;
    const entry = new Map(fields(bytes));
    properties.set(text(entry.get(1)), text(entry.get(2)));
  }
  return properties;
}

/** The fields of a protobuf message, in their order: [number, bytes], or [number, null] for a number. */
function* fields(message) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; at < message.length; factor *= 128) {
      const byte = message[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new Error("this is not an ONNX file, or it is cut short");
  };
  while (at < message.length) {
    const tag = varint();
    const kind = tag % 8;
    const length = kind === 2 ? varint() : { 1: 8, 5: 4 }[kind];
    if (kind === 0) varint();
    else if (length === undefined || at + length > message.length) {
      throw new Error("this is not an ONNX file, or it is cut short");
    }
    yield [Math.floor(tag / 8), kind === 2 ? message.subarray(at, at + length) : null];
    at += length ?? 0;
  }
}
