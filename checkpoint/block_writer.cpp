#include "checkpoint/block_writer.h"

#include "base/digest.h"
#include "base/error.h"

#include <utility>

namespace trestle::checkpoint {

BlockWriter::BlockWriter(const std::filesystem::path& path) : file_(path, ExitCode::checkpoint) {
  record_.name = path.filename().string();
}

void BlockWriter::append(std::span<const std::byte> block) {
  TRESTLE_ASSERT(block.size() <= kBlockBytes && record_.bytes % kBlockBytes == 0,
                 "{} bytes are no block behind {} of {}", block.size(), record_.bytes,
                 record_.name);
  record_.block_digests.push_back(digest_64(block));
  file_.write_exact(record_.bytes, block);
  record_.bytes += block.size();
}

FileRecord BlockWriter::finish() {
  file_.sync();
  return std::exchange(record_, {});
}

}  // namespace trestle::checkpoint
