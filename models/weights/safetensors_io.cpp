#include "models/weights/safetensors_io.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <array>
#include <set>
#include <utility>

namespace trestle::models::weights {
namespace {

using formats::ElementType;

constexpr std::array<std::pair<ElementType, at::ScalarType>, 9> kDtypes = {{
    {ElementType::boolean, at::kBool},
    {ElementType::uint8, at::kByte},
    {ElementType::int8, at::kChar},
    {ElementType::int32, at::kInt},
    {ElementType::int64, at::kLong},
    {ElementType::float16, at::kHalf},
    {ElementType::bfloat16, at::kBFloat16},
    {ElementType::float32, at::kFloat},
    {ElementType::float64, at::kDouble},
}};

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

}  // namespace

at::Tensor read_tensor(const formats::SafetensorsFile& file, const formats::TensorEntry& entry) {
  for (const auto& [stored, dtype] : kDtypes) {
    if (stored != entry.dtype) continue;
    at::Tensor tensor = at::empty(entry.shape, dtype);
    file.read(entry, {static_cast<std::byte*>(tensor.mutable_data_ptr()), entry.size_bytes()});
    return tensor;
  }
  fail(ExitCode::data, "{}: tensor \"{}\" has dtype {} (not one that weights come in). Convert it.",
       file.path().string(), entry.name, formats::safetensors_name(entry.dtype));
}

std::map<std::string, at::Tensor> read_all(const std::filesystem::path& path) {
  const auto file = formats::SafetensorsFile::open(path);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& entry : file.entries()) tensors.emplace(entry.name, read_tensor(file, entry));
  return tensors;
}

void load_parameters(const std::filesystem::path& path, const nn::Parameters& parameters) {
  const auto file = formats::SafetensorsFile::open(path);
  std::string problems;
  std::set<std::string_view> wanted;
  for (const auto& parameter : parameters.all()) {
    wanted.insert(parameter.name);
    const auto* entry = file.find(parameter.name);
    if (entry == nullptr) {
      problems +=
          fmt::format("\n  missing: {} {}", parameter.name, shape_text(parameter.tensor.sizes()));
    } else if (at::IntArrayRef(entry->shape) != parameter.tensor.sizes()) {
      problems += fmt::format("\n  other shape: {} is {}, the model has {}", parameter.name,
                              shape_text(entry->shape), shape_text(parameter.tensor.sizes()));
    }
  }
  for (const auto& entry : file.entries()) {
    if (!wanted.contains(entry.name)) {
      problems += fmt::format("\n  not in the model: {} {}", entry.name, shape_text(entry.shape));
    }
  }
  TRESTLE_REQUIRE_AS(
      data, problems.empty(),
      "{} does not fit the model (names and shapes must be equal). Check the model's "
      "configuration:{}",
      path.string(), problems);
  for (const auto& parameter : parameters.all()) {
    parameter.tensor.detach().copy_(read_tensor(file, *file.find(parameter.name)));
  }
}

void write_tensors(const std::filesystem::path& path,
                   const std::vector<nn::NamedParameter>& tensors,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> alive;  // keeps contiguous copies until the file is written
  std::vector<formats::TensorToWrite> parts;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor plain = tensor.detach().to(at::kCPU).contiguous();
    alive.push_back(plain);
    for (const auto& [stored, dtype] : kDtypes) {
      if (dtype != plain.scalar_type()) continue;
      parts.push_back(
          {.name = name,
           .dtype = stored,
           .shape = plain.sizes().vec(),
           .bytes = {static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()}});
    }
    TRESTLE_ASSERT(parts.size() == alive.size(), "{} has a dtype that safetensors lack", name);
  }
  formats::write_safetensors(path, parts, metadata);
}

}  // namespace trestle::models::weights
