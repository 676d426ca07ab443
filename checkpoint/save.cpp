#include "checkpoint/save.h"

#include "base/digest.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/plan.h"
#include "checkpoint/tensor_bytes.h"
#include "formats/hdf5.h"

#include <ATen/ATen.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdio>
#include <fcntl.h>
#include <random>
#include <utility>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporaryPrefix = ".tmp-step-";

/// What this rank writes of each tensor, in the order of the tree.
std::vector<ElementRange> ranges_to_write(const StateTree& tree, const Holder& holder) {
  std::vector<TensorSize> replicated;
  for (const StateEntry& entry : tree.tensors)
    if (entry.replicated)
      replicated.push_back({entry.end, static_cast<std::uint64_t>(entry.tensor.element_size())});
  const std::vector<ElementRange> shares = share_of(replicated, holder.rank, holder.count);

  std::vector<ElementRange> ranges;
  auto share = shares.begin();
  for (const StateEntry& entry : tree.tensors)
    ranges.push_back(entry.replicated ? *share++ : ElementRange{entry.begin, entry.end});
  return ranges;
}

FileRecord digest_file(const fs::path& path) {
  const FileReader file(path, ExitCode::checkpoint);
  FileRecord record;
  record.name = path.filename().string();
  record.bytes = file.size_bytes();
  std::vector<std::byte> buffer(std::min(kBlockBytes, record.bytes));
  for (std::size_t block = 0; record.block_begin(block) < record.bytes; ++block) {
    const std::uint64_t begin = record.block_begin(block), end = record.block_end(block);
    const std::span<std::byte> bytes = std::span(buffer).first(end - begin);
    file.read_exact(begin, bytes);
    record.block_digests.push_back(digest_64(bytes));
  }
  return record;
}

/// The tensor's record in the manifest, without pieces at first.
TensorRecord& record_of(const StateEntry& entry, Manifest& manifest) {
  const auto dtype = element_type_of(entry.tensor.scalar_type());
  TRESTLE_ASSERT(dtype, "tensor {} has dtype {}, which checkpoints do not hold", entry.name,
                 at::toString(entry.tensor.scalar_type()));
  return manifest.tensors.try_emplace(entry.name, TensorRecord{entry.shape, *dtype, {}})
      .first->second;
}

/// The elements of the range, contiguous on the CPU; without a copy where they are that already.
at::Tensor host_elements(const StateEntry& entry, const ElementRange& range) {
  return entry.tensor.detach()
      .reshape({-1})
      .narrow(0, static_cast<std::int64_t>(range.begin - entry.begin),
              static_cast<std::int64_t>(range.end - range.begin))
      .cpu()
      .contiguous();
}

/// Another name at each call, so that what a killed save left behind is never written into.
std::string temporary_name(std::int64_t step) {
  std::random_device random;
  return fmt::format("{}{:08}-{:08x}", kTemporaryPrefix, step, random());
}

/// Gives the finished folder its name. What had the name before is deleted afterwards.
void publish(const fs::path& temporary, const fs::path& checkpoint) {
  std::error_code ignored;
  if (fs::exists(checkpoint)) {
    if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, checkpoint.c_str(), RENAME_EXCHANGE) ==
        0) {
      fs::remove_all(temporary, ignored);  // by now the old checkpoint
    } else {                               // a file system that cannot exchange two names
      fs::path aside = checkpoint;
      aside += ".replaced";
      fs::remove_all(aside);
      fs::rename(checkpoint, aside);
      try {
        fs::rename(temporary, checkpoint);
      } catch (...) {
        fs::rename(aside, checkpoint);
        throw;
      }
      fs::remove_all(aside, ignored);
    }
  } else {
    fs::rename(temporary, checkpoint);
  }
  fsync_directory(checkpoint.parent_path(), ExitCode::checkpoint);
}

/// Rank 0's part: the manifest of all ranks' shards, then the name.
void seal(const fs::path& temporary, const fs::path& checkpoint,
          const std::vector<std::string>& manifests_of_ranks, const SaveRequest& request) {
  std::vector<Manifest> of_ranks;
  for (const std::string& text : manifests_of_ranks)
    of_ranks.push_back(parse_manifest(text, "what a rank wrote"));
  Manifest manifest = merge(std::move(of_ranks));
  manifest.step = request.step;
  manifest.recipe_toml = request.recipe_toml;
  manifest.recipe_hash = request.recipe_hash;
  manifest.topology = request.topology;
  manifest.epoch = request.epoch;
  manifest.versions = {
      {"trestle", TRESTLE_VERSION}, {"torch", TORCH_VERSION}, {"hdf5", formats::hdf5_version()}};
  require_whole(manifest, checkpoint.string());

  write_file_durable(temporary / kManifestName, to_text(manifest), ExitCode::checkpoint);
  fsync_directory(temporary, ExitCode::checkpoint);
  if (request.before_publish) request.before_publish();
  publish(temporary, checkpoint);
  try {
    write_file_atomic(request.folder / "latest", checkpoint.filename().string() + "\n",
                      ExitCode::checkpoint);
  } catch (const Error& error) {
    log_warn("{} The checkpoint itself is complete: {}", error.what(), checkpoint.string());
  }
}

/// Failures of std::filesystem become errors of a checkpoint.
template <class F>
auto writing(const fs::path& checkpoint, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const fs::filesystem_error& error) {
    fail(ExitCode::checkpoint, "{} could not be written ({}). Check its folder's rights and space.",
         checkpoint.string(), error.what());
  }
}

}  // namespace

Manifest write_shard(const fs::path& folder, const StateTree& tree, int rank, int world,
                     const Holder& holder) {
  Manifest manifest;
  manifest.world = world;
  manifest.values = tree.values;
  std::vector<formats::H5Dataset> datasets;
  std::vector<std::size_t> entry_of_dataset;
  const std::vector<ElementRange> ranges = ranges_to_write(tree, holder);
  for (std::size_t i = 0; i < tree.tensors.size(); ++i) {
    const StateEntry& entry = tree.tensors[i];
    const auto [begin, end] = ranges[i];
    TensorRecord& record = record_of(entry, manifest);
    const bool empty = record.elements() == 0;  // has no bytes, but somebody has to list it
    if (empty ? holder.rank != 0 : begin == end) continue;
    const bool whole = end - begin == record.elements();
    datasets.push_back(whole ? formats::H5Dataset{entry.name, record.dtype, record.shape}
                             : formats::H5Dataset{fmt::format("{}[{}:{}]", entry.name, begin, end),
                                                  record.dtype,
                                                  {static_cast<std::int64_t>(end - begin)}});
    entry_of_dataset.push_back(i);
  }

  const fs::path path = folder / fmt::format("shard-{:05}-of-{:05}.h5", rank, world);
  const formats::H5Layout layout = formats::lay_out_h5(datasets);
  const FileWriter file(path, ExitCode::checkpoint);
  for (const formats::H5Layout::Part& part : layout.parts)
    file.write_exact(part.offset, part.bytes);
  for (std::size_t i = 0; i < datasets.size(); ++i) {
    const StateEntry& entry = tree.tensors[entry_of_dataset[i]];
    const ElementRange& range = ranges[entry_of_dataset[i]];
    const at::Tensor host = host_elements(entry, range);
    file.write_exact(layout.offsets[i], bytes_of(host));
    manifest.tensors.at(entry.name)
        .pieces.push_back({.file = 0,
                           .dataset = datasets[i].name,
                           .offset = layout.offsets[i],
                           .bytes = host.nbytes(),
                           .begin = range.begin,
                           .end = range.end});
  }
  file.sync();
  manifest.files.push_back(digest_file(path));
  return manifest;
}

fs::path save(const dist::Communicator& comm, const StateTree& tree, const SaveRequest& request) {
  const fs::path checkpoint = request.folder / fmt::format("step-{:08}", request.step);
  const fs::path temporary =
      request.folder /
      comm.broadcast_bytes(comm.is_root() ? temporary_name(request.step) : std::string(), 0);
  try {
    comm.agreed([&] {
      if (comm.is_root())
        writing(checkpoint, [&] {
          fs::create_directories(request.folder);
          fs::create_directory(temporary);
        });
    });
    const dist::Communicator& holders = request.holders ? *request.holders : comm;
    const Holder holder{.rank = holders.rank(), .count = holders.size()};
    const std::string mine = comm.agreed(
        [&] { return to_text(write_shard(temporary, tree, comm.rank(), comm.size(), holder)); });
    const std::vector<std::string> of_ranks = comm.all_gather_bytes(mine);
    comm.agreed([&] {
      if (comm.is_root())
        writing(checkpoint, [&] { seal(temporary, checkpoint, of_ranks, request); });
    });
  } catch (...) {
    std::error_code ignored;
    if (comm.is_root()) fs::remove_all(temporary, ignored);
    throw;
  }
  return checkpoint;
}

void remove_leftovers(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().filename().string().starts_with(kTemporaryPrefix))
      fs::remove_all(entry.path(), ignored);
}

}  // namespace trestle::checkpoint
