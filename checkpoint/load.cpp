#include "checkpoint/load.h"

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/shard_reader.h"
#include "checkpoint/tensor_bytes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <utility>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

/// The step in the name "step-00000100"; nothing for other names.
std::optional<std::int64_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  std::int64_t step = 0;
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (error != std::errc() || stop != end || step < 0) return std::nullopt;
  return step;
}

/// Throws unless the checkpoint is complete, without reading its data.
void require_complete(const fs::path& checkpoint, std::int64_t step) {
  const Manifest manifest = read_manifest(checkpoint);
  if (manifest.step != step)
    fail(ExitCode::checkpoint, "{} holds step {}, not that of its name. Rename it.",
         checkpoint.string(), manifest.step);
  for (const FileRecord& file : manifest.files) open_file(checkpoint, file);
}

std::string shape_text(const std::vector<std::int64_t>& shape, std::string_view dtype) {
  return fmt::format("{} [{}]", dtype, fmt::join(shape, ", "));
}

/// One sentence for each tensor that is missing, differs or is not asked for.
std::vector<std::string> tensor_differences(const Visit& visit, const Manifest& manifest,
                                            Unnamed unnamed) {
  const StateTree& tree = visit.tree;
  const auto is_elsewhere = [&](const std::string& name) {
    return std::ranges::any_of(visit.elsewhere,
                               [&](const std::string& prefix) { return name.starts_with(prefix); });
  };
  std::vector<std::string> differences;
  std::set<std::string_view> asked;
  for (const StateEntry& entry : tree.tensors) {
    asked.insert(entry.name);
    const auto found = manifest.tensors.find(entry.name);
    if (found == manifest.tensors.end()) {
      differences.push_back(fmt::format("tensor {} is missing", entry.name));
      continue;
    }
    const TensorRecord& stored = found->second;
    if (stored.shape != entry.shape ||
        element_type_of(entry.tensor.scalar_type()) != stored.dtype) {
      const auto dtype = element_type_of(entry.tensor.scalar_type());
      differences.push_back(fmt::format(
          "tensor {} is {} and should be {}", entry.name,
          shape_text(stored.shape, formats::element_name(stored.dtype)),
          shape_text(entry.shape, dtype ? formats::element_name(*dtype) : "of another dtype")));
    }
  }
  if (unnamed == Unnamed::ignore) return differences;
  for (const auto& [name, stored] : manifest.tensors)
    if (!asked.contains(name) && !is_elsewhere(name))
      differences.push_back(fmt::format("tensor {} is not expected", name));
  for (const auto& [name, value] : manifest.values)
    if (!tree.values.contains(name) && !is_elsewhere(name))
      differences.push_back(fmt::format("value {} is not expected", name));
  return differences;
}

/// Fills the entry from those pieces that hold elements of it.
void read_entry(const StateEntry& entry, const TensorRecord& stored, ShardReader& reader) {
  // Tensors on a device or with strides of their own are filled by a copy.
  const bool in_place = entry.tensor.is_cpu() && entry.tensor.is_contiguous();
  const at::Tensor host =
      in_place ? entry.tensor
               : at::empty(entry.tensor.sizes(), entry.tensor.options().device(at::kCPU),
                           at::MemoryFormat::Contiguous);
  const std::span<std::byte> bytes = bytes_of(host);
  const std::uint64_t element_bytes = formats::element_bytes(stored.dtype);
  for (const PieceRecord& piece : stored.pieces) {
    const std::uint64_t begin = std::max(piece.begin, entry.begin);
    const std::uint64_t end = std::min(piece.end, entry.end);
    if (begin >= end) continue;
    reader.read(piece.file, piece.offset + (begin - piece.begin) * element_bytes,
                bytes.subspan((begin - entry.begin) * element_bytes, (end - begin) * element_bytes),
                entry.name);
  }
  if (!in_place) entry.tensor.copy_(host);
}

}  // namespace

std::optional<fs::path> newest(const fs::path& folder) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code missing;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, missing))
    if (const auto step = step_of(entry.path().filename().string()))
      found.emplace_back(*step, entry.path());
  std::ranges::sort(found, std::greater<>());
  for (const auto& [step, path] : found) {
    try {
      require_complete(path, step);
      return path;
    } catch (const Error& error) {
      log_warn("Skipping checkpoint {}: {}", path.string(), error.what());
    }
  }
  return std::nullopt;
}

std::optional<fs::path> newest(const dist::Communicator& comm, const fs::path& folder) {
  const std::string found = comm.agreed([&]() -> std::string {
    if (!comm.is_root()) return {};
    const auto path = newest(folder);
    return path ? path->string() : std::string();
  });
  const std::string chosen = comm.broadcast_bytes(found, 0);
  if (chosen.empty()) return std::nullopt;
  return fs::path(chosen);
}

LoadReport load(const fs::path& checkpoint, const Visitor& visitor, Unnamed unnamed) {
  const Manifest manifest = read_manifest(checkpoint);
  const Visit visit(visitor, &manifest.values);
  std::vector<std::string> differences = visit.differences;
  std::ranges::move(tensor_differences(visit, manifest, unnamed), std::back_inserter(differences));
  if (!differences.empty())
    fail(ExitCode::checkpoint,
         "{} is of another model or recipe ({} differences). Use the recipe that it holds, or "
         "another run directory:\n  {}",
         checkpoint.string(), differences.size(), fmt::join(differences, "\n  "));

  const at::NoGradGuard no_grad;  // in-place copies into leaves
  ShardReader reader(checkpoint, manifest);
  for (const StateEntry& entry : visit.tree.tensors)
    read_entry(entry, manifest.tensors.at(entry.name), reader);
  return {.step = manifest.step, .bytes_read = reader.bytes_read()};
}

}  // namespace trestle::checkpoint
