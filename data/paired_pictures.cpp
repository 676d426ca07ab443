#include "data/paired_pictures.h"

#include "base/error.h"
#include "formats/jsonl.h"
#include "formats/picture_file.h"
#include "formats/safetensors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

namespace trestle::data {
namespace {

constexpr const char* kPromptFile = "prompts.safetensors";

at::Tensor read_prompt(const formats::SafetensorsFile& file, const formats::TensorEntry& entry,
                       std::int64_t text_channels) {
  TRESTLE_REQUIRE_AS(
      data,
      entry.dtype == formats::ElementType::float32 && entry.shape.size() == 2 &&
          entry.shape[0] >= 1 && entry.shape[1] == text_channels,
      "{}: the embedding of \"{}\" has dtype {} and shape [{}] (the model wants float32 "
      "[rows, {}]: model.caption_channels). Write it anew, or change the model.",
      file.path().string(), entry.name, formats::element_name(entry.dtype),
      fmt::join(entry.shape, ", "), text_channels);
  at::Tensor text_lc = at::empty(entry.shape, at::kFloat);
  file.read(entry, {static_cast<std::byte*>(text_lc.mutable_data_ptr()), entry.size_bytes()});
  return text_lc;
}

std::string size_text(const formats::Picture& picture) {
  return fmt::format("{}x{}", picture.width, picture.height);
}

/// 8-bit RGB to [3, H, W] in [-1, 1], written into one sample of a batch.
void write_picture(const formats::Picture& picture, const at::Tensor& out_chw) {
  const std::int64_t pixels = std::int64_t{picture.width} * picture.height;
  float* out = out_chw.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < pixels; ++i) {
    for (std::int64_t c = 0; c < 3; ++c) {
      out[c * pixels + i] = static_cast<float>(picture.rgb[3 * i + c]) / 127.5f - 1.0f;
    }
  }
}

}  // namespace

void PairedPicturesOptions::describe(configs::Fields& f) {
  f.field("path", path,
          {.help = "folder with pairs.jsonl, heldout.jsonl and prompts.safetensors",
           .may_change = true});
  f.field("resolution", resolution, {.help = "side of every picture", .unit = "pixels", .min = 1});
}

PairedPictures::PairedPictures(const PairedPicturesOptions& options, const std::string& list,
                               std::int64_t text_channels)
    : list_(std::filesystem::path(options.path) / list), resolution_(options.resolution) {
  const std::filesystem::path folder = options.path;
  TRESTLE_REQUIRE_AS(data, !options.path.empty(),
                     "data.path is not set (it names the folder of picture pairs). Set data.path.");
  std::error_code ignored;  // what cannot be looked at is not there either
  TRESTLE_REQUIRE_AS(
      data, std::filesystem::is_directory(folder, ignored),
      "data.path = \"{}\" is no folder (picture pairs are read from there). Make it, or "
      "correct data.path.",
      options.path);
  TRESTLE_REQUIRE_AS(
      data, std::filesystem::exists(list_, ignored),
      "data.path = \"{}\" has no {} (a paired data set lists its pairs there). Write "
      "one: a line {{\"source\": FILE, \"target\": FILE, \"prompt\": TEXT}} for each pair.",
      options.path, list);

  const auto prompts = formats::SafetensorsFile::open(folder / kPromptFile);
  std::map<std::string, std::size_t> known;
  formats::for_each_json_line(list_, [&](const formats::JsonLine& line) {
    const std::string prompt = formats::required_string(line, "prompt");
    auto [place, is_new] = known.try_emplace(prompt, text_lc_.size());
    if (is_new) {
      const formats::TensorEntry* entry = prompts.find(prompt);
      TRESTLE_REQUIRE_AS(data, entry != nullptr,
                         "{}: prompt \"{}\" has no embedding in {} (every prompt needs one). Add a "
                         "tensor of that name.",
                         line.place(), prompt, (folder / kPromptFile).string());
      text_lc_.push_back(read_prompt(prompts, *entry, text_channels));
    }
    pairs_.push_back({.source = folder / formats::required_string(line, "source"),
                      .target = folder / formats::required_string(line, "target"),
                      .prompt = place->second,
                      .line = line.number()});
  });
  TRESTLE_REQUIRE_AS(data, !pairs_.empty(),
                     "{} lists no pairs (a run needs at least one). Add lines.", list_.string());
}

std::pair<formats::Picture, formats::Picture> PairedPictures::read_pair(SampleId id) const {
  const Pair& pair = pairs_[id];
  try {
    auto source = formats::read_picture(pair.source);
    auto target = formats::read_picture(pair.target);
    TRESTLE_REQUIRE_AS(
        data, source.width == target.width && source.height == target.height,
        "{} is {} pixels and {} is {} (the pictures of a pair have one size). Resize "
        "one of them.",
        pair.source.string(), size_text(source), pair.target.string(), size_text(target));
    TRESTLE_REQUIRE_AS(data, source.width == resolution_ && source.height == resolution_,
                       "{} and {} are {} pixels (data.resolution = {}). Resize them, or set "
                       "data.resolution.",
                       pair.source.string(), pair.target.string(), size_text(source), resolution_);
    return {std::move(source), std::move(target)};
  } catch (const Error& error) {
    throw BadSample(id, fmt::format("{}:{}: {}", list_.string(), pair.line, error.what()));
  }
}

Batch PairedPictures::load(std::span<const SampleId> ids) const {
  const auto count = static_cast<std::int64_t>(ids.size());
  std::int64_t rows = 1;
  for (const SampleId id : ids) rows = std::max(rows, text_lc_[pairs_[id].prompt].size(0));
  const std::int64_t channels = text_lc_.front().size(1);

  Batch batch;
  batch.ids.assign(ids.begin(), ids.end());
  at::Tensor source = at::empty({count, 3, resolution_, resolution_}, at::kFloat);
  at::Tensor target = at::empty_like(source);
  at::Tensor text = at::zeros({count, rows, channels}, at::kFloat);
  at::Tensor mask = at::zeros({count, rows}, at::kLong);
  for (std::int64_t i = 0; i < count; ++i) {
    const Pair& pair = pairs_[ids[i]];
    const auto [source_picture, target_picture] = read_pair(ids[i]);
    write_picture(source_picture, source[i]);
    write_picture(target_picture, target[i]);
    const at::Tensor& prompt_lc = text_lc_[pair.prompt];
    text[i].slice(0, 0, prompt_lc.size(0)).copy_(prompt_lc);
    mask[i].slice(0, 0, prompt_lc.size(0)).fill_(1);
  }
  batch.tensors = {{"source", source}, {"target", target}, {"text", text}, {"text_mask", mask}};
  return batch;
}

}  // namespace trestle::data
