// load_weights PATH...: loads files or folders of weights as a model does and says how that went,
// for judges outside (tests/oracle/weights_oracle.py).
//
// The parameters are those of the Sana model that --sana CONFIG.json describes, else whatever the
// file holds, in one flat buffer a dtype. With --save each lands in PATH.loaded.safetensors; with
// --folder they are written as a folder of shards. Prints a JSON line a path.
#include "base/error.h"
#include "base/files.h"
#include "benchmarks/process_memory.h"
#include "models/sana/transformer.h"
#include "models/weights/dtypes.h"
#include "models/weights/safetensors_io.h"

#include <ATen/ATen.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>

namespace {

using namespace trestle;
using models::nn::NamedParameter;
namespace fs = std::filesystem;
namespace weights = models::weights;

struct Arguments {
  std::vector<std::string> paths;
  std::string sana, dtype, variant, folder;
  std::uint64_t max_shard_bytes = 10'000'000'000;
  int threads = 0;
  bool save = false;
};

std::optional<at::ScalarType> dtype_of(const std::string& name) {
  if (name.empty()) return std::nullopt;
  const auto type = formats::element_type_named(name);
  TRESTLE_REQUIRE(type, "--dtype {} is not known (torch's names are). Correct it.", name);
  return weights::scalar_type_of(*type);
}

/// Places for what the source holds: views into a buffer, a few elements apart.
std::vector<NamedParameter> places_for(const weights::Source& source,
                                       std::optional<at::ScalarType> wanted) {
  constexpr std::int64_t kGap = 3;
  const auto dtype = [&](const formats::StoredTensor& stored) {
    return wanted.value_or(weights::scalar_type_of(stored.dtype));
  };
  std::map<at::ScalarType, std::int64_t> sizes;
  for (const auto& stored : source.tensors()) sizes[dtype(stored)] += stored.elements() + kGap;
  std::map<at::ScalarType, at::Tensor> flat;
  for (const auto& [type, size] : sizes) flat[type] = at::empty({size}, type);
  std::vector<NamedParameter> places;
  for (const auto& stored : source.tensors()) {
    std::int64_t& end = sizes[dtype(stored)];
    end -= stored.elements() + kGap;
    places.push_back(
        {stored.name, flat[dtype(stored)].narrow(0, end, stored.elements()).view(stored.shape)});
  }
  return places;
}

std::vector<NamedParameter> places_of_sana(const std::string& config_file, at::ScalarType dtype) {
  const auto config = models::sana::config_from_json(
      read_text_file(config_file, 1 << 20, ExitCode::data), config_file);
  models::nn::Parameters parameters(at::TensorOptions().dtype(dtype), Draws(0));
  const models::sana::SanaTransformer model(config, parameters.root());
  return parameters.all();
}

/// Of 16-bit numbers: one that another program can compute without a copy of them.
std::int64_t sum_of_words(const std::vector<NamedParameter>& places) {
  std::int64_t sum = 0;
  for (const auto& place : places) {
    if (place.tensor.element_size() == 2)
      sum += place.tensor.detach().view(at::kShort).sum().item<std::int64_t>();
  }
  return sum;
}

void load(const Arguments& arguments, const std::string& path) {
  const auto dtype = dtype_of(arguments.dtype);
  const auto source = weights::Source::open(path, arguments.variant);
  const benchmarks::PeakMemory memory;
  const auto places = arguments.sana.empty()
                          ? places_for(source, dtype)
                          : places_of_sana(arguments.sana, dtype.value_or(at::kFloat));
  const auto report = weights::load_parameters(source, places, {.threads = arguments.threads});
  const std::int64_t grown = memory.grown_bytes();
  if (arguments.save) {
    fs::path out = path;
    out += ".loaded.safetensors";
    weights::write_tensors(out, places);
  }
  if (!arguments.folder.empty()) {
    weights::write_folder(arguments.folder, "diffusion_pytorch_model", places,
                          arguments.max_shard_bytes);
  }
  const nlohmann::json told = {
      {"tensors", report.tensors}, {"bytes", report.bytes}, {"direct_bytes", report.direct_bytes},
      {"seconds", report.seconds}, {"grown_bytes", grown},  {"words", sum_of_words(places)}};
  std::printf("%s\n", told.dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Loads weights and says how that went.");
  app.add_option("paths", arguments.paths)->required();
  app.add_option("--sana", arguments.sana);
  app.add_option("--dtype", arguments.dtype);
  app.add_option("--variant", arguments.variant);
  app.add_option("--threads", arguments.threads);
  app.add_option("--folder", arguments.folder);
  app.add_option("--max-shard-bytes", arguments.max_shard_bytes);
  app.add_flag("--save", arguments.save);
  CLI11_PARSE(app, argc, argv);
  try {
    for (const std::string& path : arguments.paths) load(arguments, path);
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
