#include "base/files.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace trestle {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

[[noreturn]] void fail_to_write(const std::filesystem::path& path, int error, ExitCode code) {
  fail(code, "{} could not be written ({}). Check the rights and the free space of its folder.",
       path.string(), reason(error));
}

template <class... Args>
[[noreturn]] void fail_to_read(ExitCode code, int error, fmt::format_string<Args...> format,
                               Args&&... args) {
  throw FileError(code, fmt::format(format, std::forward<Args>(args)...), error);
}

void fsync_path(const std::filesystem::path& path, int flags, ExitCode code) {
  const int opened = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  const int error = opened < 0 || ::fsync(opened) != 0 ? errno : 0;
  if (opened >= 0) ::close(opened);
  if (error != 0) fail_to_write(path, error, code);
}

}  // namespace

FileReader::FileReader(std::filesystem::path path, ExitCode code)
    : path_(std::move(path)), code_(code) {
  // Without O_NONBLOCK, opening a pipe that someone put here would wait for ever.
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    const int error = errno;
    fail_to_read(code_, error, "{} cannot be opened ({}). Check the path and its rights.",
                 path_.string(), reason(error));
  }
  struct stat status {};
  const int error = ::fstat(descriptor_, &status) != 0 ? errno : 0;
  if (error != 0 || !S_ISREG(status.st_mode)) {
    ::close(std::exchange(descriptor_, -1));
    fail_to_read(code_, error, "{} cannot be read ({}). Give the path of a file.", path_.string(),
                 error != 0 ? reason(error) : "not a regular file");
  }
  size_bytes_ = static_cast<std::uint64_t>(status.st_size);
}

FileReader::~FileReader() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

FileReader::FileReader(FileReader&& other) noexcept
    : path_(std::move(other.path_)),
      code_(other.code_),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_bytes_(other.size_bytes_) {}

FileReader& FileReader::operator=(FileReader&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(code_, other.code_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

void FileReader::read_exact(std::uint64_t offset_bytes, std::span<std::byte> into) const {
  read_exact(offset_bytes, std::span(&into, 1));
}

void FileReader::read_exact(std::uint64_t offset_bytes,
                            std::span<const std::span<std::byte>> into) const {
  std::uint64_t wanted = 0;
  for (const std::span<std::byte> part : into) wanted += part.size();
  if (offset_bytes > size_bytes_ || wanted > size_bytes_ - offset_bytes)
    fail_to_read(code_, 0,
                 "{} ends too early ({} bytes at offset {} wanted, it has {}). Copy it again.",
                 path_.string(), wanted, offset_bytes, size_bytes_);
  std::size_t part = 0;
  std::uint64_t done_of_part = 0;
  while (true) {
    std::array<iovec, 64> places{};
    std::size_t count = 0;
    for (std::size_t i = part; i < into.size() && count < places.size(); ++i) {
      const std::uint64_t skip = i == part ? done_of_part : 0;
      if (into[i].size() > skip)
        places[count++] = {.iov_base = into[i].data() + skip, .iov_len = into[i].size() - skip};
    }
    if (count == 0) return;
    const ssize_t read = ::preadv(descriptor_, places.data(), static_cast<int>(count),
                                  static_cast<off_t>(offset_bytes));
    if (read < 0 && errno == EINTR) continue;
    if (read <= 0) {
      const int error = read < 0 ? errno : 0;
      fail_to_read(
          code_, error, "{} could not be read at offset {} ({}). Copy it again, or check the disk.",
          path_.string(), offset_bytes, error != 0 ? reason(error) : "it was truncated meanwhile");
    }
    offset_bytes += static_cast<std::uint64_t>(read);
    done_of_part += static_cast<std::uint64_t>(read);
    while (part < into.size() && done_of_part >= into[part].size())
      done_of_part -= into[part++].size();
  }
}

void FileReader::will_read(std::uint64_t offset_bytes, std::uint64_t bytes) const {
  // The kernel cuts one request at what the disk takes at once.
  constexpr std::uint64_t kAtOnce = std::uint64_t{1} << 20;
  for (std::uint64_t done = 0; done < bytes; done += kAtOnce) {
    ::posix_fadvise(descriptor_, static_cast<off_t>(offset_bytes + done),
                    static_cast<off_t>(std::min(kAtOnce, bytes - done)), POSIX_FADV_WILLNEED);
  }
}

std::string read_text_file(const std::filesystem::path& path, std::uint64_t limit_bytes,
                           ExitCode code) {
  const FileReader file(path, code);
  if (file.size_bytes() > limit_bytes)
    fail(code, "{} has {} bytes (at most {} are read). Is it the right file?", path.string(),
         file.size_bytes(), limit_bytes);
  std::string text(file.size_bytes(), '\0');
  file.read_exact(0, std::as_writable_bytes(std::span(text)));
  return text;
}

FileWriter::FileWriter(std::filesystem::path path, ExitCode code)
    : path_(std::move(path)), code_(code) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_to_write(path_, errno, code_);
}

FileWriter::~FileWriter() { ::close(descriptor_); }

void FileWriter::write_exact(std::uint64_t offset_bytes, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t put =
        ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fail_to_write(path_, errno, code_);
    offset_bytes += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void FileWriter::sync() const {
  // Network file systems report a full disk here only.
  if (::fsync(descriptor_) != 0) fail_to_write(path_, errno, code_);
}

void write_file_durable(const std::filesystem::path& path, std::string_view bytes, ExitCode code) {
  const FileWriter file(path, code);
  file.write_exact(0, std::as_bytes(std::span(bytes)));
  file.sync();
}

void write_file_atomic(const std::filesystem::path& path, std::string_view bytes, ExitCode code) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  try {
    write_file_durable(temporary, bytes, code);
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail_to_write(path, errno, code);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  fsync_directory(path.has_parent_path() ? path.parent_path() : ".", code);
}

void fsync_file(const std::filesystem::path& path, ExitCode code) { fsync_path(path, 0, code); }

void fsync_directory(const std::filesystem::path& folder, ExitCode code) {
  fsync_path(folder, O_DIRECTORY, code);
}

}  // namespace trestle
