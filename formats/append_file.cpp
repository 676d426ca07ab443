#include "formats/append_file.h"

#include "base/error.h"
#include "base/log.h"

#include <cerrno>
#include <fcntl.h>
#include <system_error>
#include <unistd.h>

namespace trestle::formats {
namespace {

[[noreturn]] void fail_to_write(const std::filesystem::path& path, int error) {
  fail(ExitCode::environment,
       "{} could not be written ({}). Check the rights and the free space of its folder.",
       path.string(), std::generic_category().message(error));
}

/// False with errno set: what could not be written may still be there in part.
bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

}  // namespace

AppendFile::AppendFile(std::filesystem::path path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_to_write(path_, errno);
}

AppendFile::~AppendFile() { ::close(descriptor_); }

void AppendFile::append(std::string_view piece) {
  const off_t end = ::lseek(descriptor_, 0, SEEK_END);
  if (write_all(descriptor_, piece)) return;
  const int error = errno;
  if (end >= 0 && ::ftruncate(descriptor_, end) != 0) {
    log_warn("{} may now end in an unfinished piece ({}).", path_.string(),
             std::generic_category().message(errno));
  }
  fail_to_write(path_, error);
}

}  // namespace trestle::formats
