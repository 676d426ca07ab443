#include "checkpoint/verify.h"

#include "base/deaf_thread.h"
#include "base/files.h"
#include "checkpoint/find.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shard_reader.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace trestle::checkpoint {
namespace {

namespace fs = std::filesystem;

/// A file that has whole blocks to read.
struct OpenFile {
  std::size_t index;
  FileReader reader;
  std::size_t blocks;
};

/// Opens every file and says what is wrong with their sizes.
std::vector<OpenFile> open_files(const fs::path& checkpoint, const Manifest& manifest,
                                 std::vector<Damage>& found) {
  std::vector<OpenFile> files;
  for (std::size_t i = 0; i < manifest.files.size(); ++i) {
    const FileRecord& record = manifest.files[i];
    try {
      FileReader reader(checkpoint / record.name, ExitCode::checkpoint);
      const std::uint64_t bytes = reader.size_bytes();
      std::size_t blocks = record.block_digests.size();
      if (bytes < record.bytes) {
        found.push_back({record.name, bytes, record.bytes,
                         fmt::format("the file has {} bytes and should have {}; missing: {}", bytes,
                                     record.bytes, contents(manifest, i, bytes, record.bytes))});
        blocks = bytes / kBlockBytes;
      } else if (bytes > record.bytes) {
        found.push_back(
            {record.name, record.bytes, bytes,
             fmt::format("the file has {} bytes and should have {}", bytes, record.bytes)});
      }
      files.push_back({i, std::move(reader), blocks});
    } catch (const FileError&) {
      try {
        rethrow_file_error(checkpoint / record.name, record.bytes);
      } catch (const DamageError& error) {
        found.push_back(error.damage());
      }
    }
  }
  return files;
}

/// Reads all blocks; those without their digest are added.
class BlockCheck {
 public:
  BlockCheck(const Manifest& manifest, const std::vector<OpenFile>& files,
             std::vector<Damage>& found)
      : manifest_(manifest), found_(found) {
    for (const OpenFile& file : files)
      for (std::size_t block = 0; block < file.blocks; ++block) blocks_.emplace_back(&file, block);
  }

  void run(int threads) {
    std::vector<std::thread> others;
    try {
      for (int i = 1; i < threads; ++i) others.push_back(deaf_thread([this] { work(); }));
    } catch (const std::system_error&) {  // no more threads: with those that there are
    }
    work();
    for (std::thread& other : others) other.join();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void work() {
    std::vector<std::byte> buffer(kBlockBytes);
    for (std::size_t i = next_++; i < blocks_.size(); i = next_++) {
      const auto [file, block] = blocks_[i];
      const FileRecord& record = manifest_.files[file->index];
      const std::span<std::byte> place =
          std::span(buffer).first(record.block_end(block) - record.block_begin(block));
      try {
        read_block(file->reader, manifest_, file->index, block, std::span(&place, 1));
      } catch (const DamageError& error) {
        const std::lock_guard lock(mutex_);
        found_.push_back(error.damage());
      } catch (...) {
        const std::lock_guard lock(mutex_);
        failure_ = std::current_exception();
        next_ = blocks_.size();
      }
    }
  }

  const Manifest& manifest_;
  std::vector<Damage>& found_;
  std::vector<std::pair<const OpenFile*, std::size_t>> blocks_;
  std::atomic<std::size_t> next_ = 0;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

void find_unlisted(const fs::path& checkpoint, const Manifest& manifest,
                   std::vector<Damage>& found) {
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoint)) {
    const std::string name = entry.path().filename().string();
    const bool listed =
        name == kManifestName || std::ranges::count(manifest.files, name, &FileRecord::name) > 0;
    if (listed) continue;
    std::error_code ignored;
    const std::uintmax_t bytes = entry.is_regular_file(ignored) ? entry.file_size(ignored) : 0;
    found.push_back({name, 0, bytes, "the manifest does not list it"});
  }
}

}  // namespace

std::vector<Damage> verify(const fs::path& checkpoint, int threads) {
  std::vector<Damage> found;
  Manifest manifest;
  try {
    manifest = read_manifest(checkpoint);
  } catch (const DamageError& error) {
    return {error.damage()};
  }
  const auto step = step_of(checkpoint);
  if (step && *step != manifest.step)
    found.push_back({std::string(kManifestName), 0, 0,
                     fmt::format("it is of step {}, and the folder's name is of step {}",
                                 manifest.step, *step)});
  const std::vector<OpenFile> files = open_files(checkpoint, manifest, found);
  BlockCheck(manifest, files, found).run(threads);
  find_unlisted(checkpoint, manifest, found);
  std::ranges::stable_sort(found, {}, [](const Damage& d) { return std::pair(d.file, d.begin); });
  return found;
}

}  // namespace trestle::checkpoint
