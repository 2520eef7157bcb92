// Classify PNG pictures with an exported file in C++: `./classify model.onnx picture.png …`. One JSON object a picture.
//
// Needs onnxruntime (headers and library: its release archive, or a package of it), libpng and nlohmann-json
// (apt-get install libpng-dev nlohmann-json3-dev):
//   g++ -std=c++17 -O2 -I $ORT/include classify.cpp -o classify $ORT/lib/libonnxruntime.so -lpng -Wl,-rpath,$ORT/lib
// Input size, colours, filter and labels come from the contract in the file's metadata. Pictures of another size are resized as
// Pillow does it, which the network has learnt with.

#include <onnxruntime_c_api.h>
#include <png.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

using nlohmann::json;
using Bytes = std::vector<uint8_t>;

// Functions of this version are in every onnxruntime since 1.16.
const OrtApi* ort = OrtGetApiBase()->GetApi(16);

void check(OrtStatus* status) {
  if (status) throw std::runtime_error(ort->GetErrorMessage(status));
}

struct Picture {
  int width, height, channels;
  Bytes pixels;
};

// 8-bit RGB or grey (ITU-R 601-2 luma in Pillow's whole numbers); transparent pixels lie on white.
Picture read_png(const char* path, int channels) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_file(&image, path)) throw std::runtime_error(std::string(path) + ": " + image.message);
  if (uint64_t(image.width) * image.height > 100'000'000) throw std::runtime_error(std::string(path) + " is too large");
  image.format = PNG_FORMAT_RGBA;
  Bytes rgba(PNG_IMAGE_SIZE(image));
  if (!png_image_finish_read(&image, nullptr, rgba.data(), 0, nullptr))
    throw std::runtime_error(std::string(path) + ": " + image.message);
  Picture picture{int(image.width), int(image.height), channels, {}};
  for (size_t i = 0; i < rgba.size(); i += 4) {
    int color[3];
    for (int c = 0; c < 3; c++) color[c] = (rgba[i + c] * rgba[i + 3] + 255 * (255 - rgba[i + 3]) + 127) / 255;
    if (channels == 1) picture.pixels.push_back((color[0] * 19595 + color[1] * 38470 + color[2] * 7471 + 0x8000) >> 16);
    else picture.pixels.insert(picture.pixels.end(), color, color + 3);
  }
  return picture;
}

double sinc(double x) { return x == 0 ? 1 : std::sin(M_PI * x) / (M_PI * x); }

double kernel(const std::string& filter, double x) {
  double d = std::fabs(x);
  if (filter == "bilinear") return std::max(0.0, 1 - d);
  if (filter == "bicubic") return d < 1 ? (1.5 * d - 2.5) * d * d + 1 : d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
  if (filter == "lanczos") return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0;
  throw std::runtime_error("this example does not know the filter " + filter);
}

// One axis of Pillow's resize: `lines` lines of `from` pixels, `step` bytes apart, lines `stride` bytes apart; sums of weights
// of 2^-22 are exact.
void resize_axis(const uint8_t* source, uint8_t* target, int from, int to, const std::string& filter, int lines, int channels,
                 size_t source_step, size_t source_stride, size_t target_step, size_t target_stride) {
  double scale = double(from) / to, stretch = std::max(scale, 1.0);
  double support = stretch * (filter == "bilinear" ? 1 : filter == "bicubic" ? 2 : 3);
  for (int i = 0; i < to; i++) {
    double center = (i + 0.5) * scale, sum = 0;
    int first = std::max(int(center - support + 0.5), 0), end = std::min(int(center + support + 0.5), from);
    std::vector<double> values;
    for (int x = first; x < end; x++) values.push_back(kernel(filter, (x - center + 0.5) / stretch));
    for (double value : values) sum += value;
    std::vector<int64_t> weights;
    for (double value : values) weights.push_back(int64_t(value / (sum ? sum : 1) * (1 << 22) + (value < 0 ? -0.5 : 0.5)));
    for (int line = 0; line < lines; line++) {
      for (int c = 0; c < channels; c++) {
        int64_t total = 1 << 21;
        for (size_t k = 0; k < weights.size(); k++)
          total += weights[k] * source[line * source_stride + (first + k) * source_step + c];
        target[line * target_stride + i * target_step + c] = uint8_t(std::clamp<int64_t>(total >> 22, 0, 255));
      }
    }
  }
}

void resize_rows(Picture& picture, int width, const std::string& filter) {
  if (picture.width == width) return;
  int channels = picture.channels;
  Bytes wide(size_t(width) * picture.height * channels);
  resize_axis(picture.pixels.data(), wide.data(), picture.width, width, filter, picture.height, channels, channels,
              size_t(picture.width) * channels, channels, size_t(width) * channels);
  picture = {width, picture.height, channels, wide};
}

void resize_columns(Picture& picture, int height, const std::string& filter) {
  if (picture.height == height) return;
  int channels = picture.channels;
  size_t row = size_t(picture.width) * channels;
  Bytes high(row * height);
  resize_axis(picture.pixels.data(), high.data(), picture.height, height, filter, picture.width, channels, row, channels, row,
              channels);
  picture = {picture.width, height, channels, high};
}

// Pillow resizes rows first, but for a height that shrinks by more than twice what the width does.
Picture resize(Picture picture, int width, int height, const std::string& filter) {
  int shrunk = picture.height - height;
  bool columns_first = shrunk > 0 && shrunk > 2 * (picture.width - width);
  if (columns_first) resize_columns(picture, height, filter);
  resize_rows(picture, width, filter);
  resize_columns(picture, height, filter);
  return picture;
}

// The contract in the metadata of an open file.
json read_contract(OrtSession* session) {
  OrtAllocator* allocator;
  OrtModelMetadata* metadata;
  char* text;
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  check(ort->SessionGetModelMetadata(session, &metadata));
  check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, "kerascv_course.contract", &text));
  if (!text) throw std::runtime_error("the file has no contract");
  json contract = json::parse(text);
  check(ort->AllocatorFree(allocator, text));
  ort->ReleaseModelMetadata(metadata);
  return contract;
}

int main(int count, char** words) try {
  if (count < 3) throw std::runtime_error("usage: classify model.onnx picture.png ...");
  if (!ort) throw std::runtime_error("this onnxruntime is older than 1.16");
  OrtEnv* environment;
  OrtSessionOptions* options;
  OrtSession* session;
  OrtMemoryInfo* memory;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "classify", &environment));
  check(ort->CreateSessionOptions(&options));
  check(ort->CreateSession(environment, words[1], options, &session));
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

  json contract = read_contract(session), image = contract["input"];
  if (image["dtype"] != "uint8") throw std::runtime_error("this example feeds uint8 pixels");
  int height = image["height"], width = image["width"], channels = image["channels"];
  bool planes = image["layout"] == "NCHW";
  std::vector<int64_t> shape =
      planes ? std::vector<int64_t>{1, channels, height, width} : std::vector<int64_t>{1, height, width, channels};
  std::string name = image["name"];
  const char* inputs[] = {name.c_str()};
  const char* outputs[] = {"logits", "probabilities"};

  std::printf(
      "%s\n",
      json({{"runtime", std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString() + ", C API"}}).dump().c_str());
  for (int i = 2; i < count; i++) {
    Bytes pixels = resize(read_png(words[i], channels), width, height, image["resize"]).pixels;
    if (planes) {
      Bytes copy(pixels.size());
      for (size_t p = 0; p < pixels.size(); p++) copy[(p % channels) * height * width + p / channels] = pixels[p];
      pixels = copy;
    }
    OrtValue* input;
    OrtValue* answers[2] = {};
    check(ort->CreateTensorWithDataAsOrtValue(memory, pixels.data(), pixels.size(), shape.data(), shape.size(),
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &input));
    check(ort->Run(session, nullptr, inputs, &input, 1, outputs, 2, answers));
    json line = {{"file", words[i]}};
    for (int o = 0; o < 2; o++) {
      float* values;
      check(ort->GetTensorMutableData(answers[o], reinterpret_cast<void**>(&values)));
      line[outputs[o]] = std::vector<float>(values, values + contract["labels"].size());
      ort->ReleaseValue(answers[o]);
    }
    ort->ReleaseValue(input);
    auto& scores = line["probabilities"];
    line["label"] = contract["labels"][std::max_element(scores.begin(), scores.end()) - scores.begin()];
    std::printf("%s\n", line.dump().c_str());
  }
  ort->ReleaseMemoryInfo(memory);
  ort->ReleaseSession(session);
  ort->ReleaseSessionOptions(options);
  ort->ReleaseEnv(environment);
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
