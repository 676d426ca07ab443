#include "checkpoint/block_writer.h"

#include "base/digest.h"
#include "base/error.h"

#include <fcntl.h>
#include <unistd.h>
#include <utility>

namespace trestle::checkpoint {

BlockWriter::BlockWriter(const std::filesystem::path& path)
    : file_(path, ExitCode::checkpoint),
      direct_(::open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC)) {
  record_.name = path.filename().string();
}

void BlockWriter::append(std::span<const std::byte> block) {
  TRESTLE_ASSERT(block.size() <= kBlockBytes && record_.bytes % kBlockBytes == 0,
                 "{} bytes are no block behind {} of {}", block.size(), record_.bytes,
                 record_.name);
  record_.block_digests.push_back(digest_64(block));
  if (!write_direct(block)) file_.write_exact(record_.bytes, block);
  record_.bytes += block.size();
}

BlockWriter::~BlockWriter() {
  if (direct_ >= 0) ::close(direct_);
}

bool BlockWriter::write_direct(std::span<const std::byte> block) {
  if (direct_ < 0 || block.size() != kBlockBytes) return false;
  const auto put = ::pwrite(direct_, block.data(), block.size(), static_cast<off_t>(record_.bytes));
  if (put == static_cast<ssize_t>(block.size())) return true;
  // Not here, or no room: the plain way does it, or says why not.
  ::close(std::exchange(direct_, -1));
  return false;
}

FileRecord BlockWriter::finish() {
  file_.sync();
  return std::exchange(record_, {});
}

}  // namespace trestle::checkpoint
