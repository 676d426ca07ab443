#include "checkpoint/load.h"

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/epochs.h"
#include "checkpoint/shard_reader.h"
#include "checkpoint/tensor_bytes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <span>
#include <utility>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

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

/// The bytes of a dense tensor as a flat tensor, whatever its dtype and device.
at::Tensor flat_bytes(const at::Tensor& dense) { return dense.reshape({-1}).view(at::kByte); }

/// Everything that is to be read for a tree, and where it goes.
class Filling {
 public:
  Filling(const StateTree& tree, const Manifest& manifest) {
    for (const StateEntry& entry : tree.tensors) add(entry, manifest.tensors.at(entry.name));
  }

  std::span<const PieceRead> pieces() const { return pieces_; }

  /// After all pieces were read.
  void finish() const {
    for (const auto& [strided, host] : copies_) strided.copy_(host);
  }

 private:
  void add(const StateEntry& entry, const TensorRecord& stored) {
    at::Tensor dense = entry.tensor;
    if (!dense.is_contiguous()) {  // strides of its own: filled by a copy
      dense =
          at::empty(dense.sizes(), dense.options().device(at::kCPU), at::MemoryFormat::Contiguous);
      copies_.emplace_back(entry.tensor, dense);
    }
    const std::uint64_t element_bytes = formats::element_bytes(stored.dtype);
    for (const PieceRecord& piece : stored.pieces) {
      const std::uint64_t begin = std::max(piece.begin, entry.begin);
      const std::uint64_t end = std::min(piece.end, entry.end);
      if (begin >= end) continue;
      PieceRead read{.file = piece.file,
                     .offset = piece.offset + (begin - piece.begin) * element_bytes,
                     .bytes = (end - begin) * element_bytes,
                     .tensor = entry.name};
      const std::uint64_t at = (begin - entry.begin) * element_bytes;
      if (dense.is_cpu())
        read.into = bytes_of(dense).subspan(at, read.bytes).data();
      else
        read.sink = to_device(flat_bytes(dense), at);
      pieces_.push_back(std::move(read));
    }
  }

  /// Copies bytes to another device's memory as they come. A block's border may lie inside an
  /// element, so the copies are of bytes.
  static PieceSink to_device(at::Tensor bytes, std::uint64_t begin) {
    return [bytes = std::move(bytes), begin](std::uint64_t at, std::span<const std::byte> part) {
      const at::NoGradGuard no_grad;  // a thread's own
      const auto from = static_cast<std::int64_t>(begin + at);
      const auto count = static_cast<std::int64_t>(part.size());
      // The copy reads `part` and is done when it returns.
      const at::Tensor host =
          at::from_blob(const_cast<std::byte*>(part.data()), {count}, at::kByte);
      bytes.slice(0, from, from + count).copy_(host);
    };
  }

  std::vector<PieceRead> pieces_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_;
};

}  // namespace

LoadReport load(const fs::path& checkpoint, const Visitor& visitor, const LoadOptions& options) {
  return load(checkpoint, read_manifest(checkpoint), visitor, options);
}

LoadReport load(const fs::path& checkpoint, const Manifest& manifest, const Visitor& visitor,
                const LoadOptions& options) {
  const auto started = std::chrono::steady_clock::now();
  const Visit visit(visitor, &manifest.values);
  std::vector<std::string> differences = visit.differences;
  std::ranges::move(tensor_differences(visit, manifest, options.unnamed),
                    std::back_inserter(differences));
  if (!differences.empty())
    fail(ExitCode::checkpoint,
         "{} is of another model or recipe ({} differences). Use the recipe that it holds, or "
         "another run directory:\n  {}",
         checkpoint.string(), differences.size(), fmt::join(differences, "\n  "));

  const at::NoGradGuard no_grad;  // in-place copies into leaves
  const Filling filling(visit.tree, manifest);
  const ReadCounts counts = read_pieces(checkpoint, manifest, filling.pieces(), options.threads);
  filling.finish();
  return {
      .step = manifest.step,
      .bytes_wanted = counts.wanted_bytes,
      .bytes_read = counts.read_bytes,
      .pieces = counts.pieces,
      .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count()};
}

std::optional<fs::path> newest(const dist::Communicator& comm, const fs::path& folder) {
  const std::string found = comm.agreed([&] {
    const auto path = comm.is_root() ? newest(folder) : std::nullopt;
    return path ? path->string() : std::string();
  });
  const std::string chosen = comm.broadcast_bytes(found, 0);
  if (chosen.empty()) return std::nullopt;
  return fs::path(chosen);
}

namespace {

/// Rank 0's way from checkpoint to checkpoint, newest first.
class Descent {
 public:
  Descent(fs::path folder, const FallbackOptions& options)
      : folder_(std::move(folder)),
        options_(options),
        epochs_(Epochs::read(folder_)),
        left_(candidates(folder_)) {}

  /// The next one that looks complete; empty: there is none.
  std::string next() {
    while (at_ < left_.size()) {
      const fs::path& path = left_[at_].path;
      try {
        const Manifest manifest = require_complete(path);
        if (!epochs_.superseded(manifest.epoch, manifest.step)) return path.string();
        log_warn("{} is passed over: it was saved after the run had another holder", path.string());
        ++at_;
      } catch (const DamageError& error) {
        pass_over(error.what());
      }
    }
    require_none_damaged();
    return {};
  }

  /// The one that next() gave, or has before it, is damaged.
  void pass_over(const std::string& problem) {
    const fs::path& path = left_[at_].path;
    if (first_problem_.empty()) first_problem_ = problem;
    ++damaged_;
    const fs::path now = options_.damaged == Damaged::set_aside ? set_aside(path) : path;
    log_error(
        "CHECKPOINT DAMAGED: {} The checkpoint before {} is used{}.", problem,
        path.filename().string(),
        now == path ? "" : fmt::format("; the damaged one is {} now", now.filename().string()));
    ++at_;
  }

 private:
  /// Throws where there were checkpoints and all are damaged: a run must not begin anew unasked.
  void require_none_damaged() const {
    const std::vector<fs::path> aside = set_aside_in(folder_);
    const std::size_t damaged = std::max(damaged_, aside.size());
    if (damaged == 0) return;
    const std::string first = first_problem_.empty()
                                  ? fmt::format("the last is {}", aside.back().string())
                                  : fmt::format("the newest: {}", first_problem_);
    fail(ExitCode::checkpoint,
         "No checkpoint in {} is whole ({} damaged; {}). Put a copy of one there{}.",
         folder_.string(), damaged, first,
         options_.way_out.empty() ? "" : ", or " + options_.way_out);
  }

  fs::path folder_;
  const FallbackOptions& options_;
  Epochs epochs_;
  std::vector<Candidate> left_;
  std::size_t at_ = 0, damaged_ = 0;
  std::string first_problem_;
};

/// Nothing if the attempt succeeded here; what is damaged otherwise. Other errors are thrown.
std::string damage_found(const std::function<void(const fs::path&)>& attempt,
                         const fs::path& checkpoint) {
  try {
    attempt(checkpoint);
  } catch (const DamageError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

std::optional<fs::path> load_newest(const dist::Communicator& comm, const fs::path& folder,
                                    const FallbackOptions& options,
                                    const std::function<void(const fs::path&)>& attempt) {
  std::optional<Descent> descent;
  comm.agreed([&] {
    if (comm.is_root()) descent.emplace(folder, options);
  });
  for (;;) {
    const std::string chosen = comm.broadcast_bytes(
        comm.agreed([&] { return descent ? descent->next() : std::string(); }), 0);
    if (chosen.empty()) return std::nullopt;
    const std::vector<std::string> problems =
        comm.all_gather_bytes(comm.agreed([&] { return damage_found(attempt, chosen); }));
    const auto first = std::ranges::find_if_not(problems, &std::string::empty);
    if (first == problems.end()) return fs::path(chosen);
    comm.agreed([&] {
      if (!descent) return;
      const bool by_all = std::ranges::none_of(problems, &std::string::empty);
      descent->pass_over(
          by_all ? *first : fmt::format("rank {} found: {}", first - problems.begin(), *first));
    });
  }
}

std::optional<fs::path> folder_of_checkpoints(const fs::path& given) {
  if (fs::exists(given / kManifestName) || step_of(given)) return std::nullopt;
  for (const fs::path& folder : {given / "checkpoints", given})
    if (!candidates(folder).empty() || !set_aside_in(folder).empty()) return folder;
  fail(ExitCode::checkpoint,
       "\"{}\" holds no checkpoint (neither manifest.json nor a run's checkpoints/ folder). Give a "
       "run directory or a folder such as runs/quickstart/checkpoints/step-00000100.",
       given.string());
}

}  // namespace trestle::checkpoint
