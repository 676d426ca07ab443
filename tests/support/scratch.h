// Places that tests write to: a folder that vanishes, and a disk that is small or read-only.
#pragma once
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <sys/mount.h>
#include <system_error>
#include <unistd.h>

namespace trestle::testing {

/// A new folder, deleted with everything in it at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "trestle-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr)
      throw std::system_error(errno, std::generic_category(), "mkdtemp " + name);
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// A tmpfs of a given size. Mounting takes rights that not every machine gives: available() tells,
/// and the test skips itself with why_not().
class SmallDisk {
 public:
  explicit SmallDisk(std::size_t bytes) {
    const std::string options = "size=" + std::to_string(bytes);
    if (::mount("trestle-test", folder_.path().c_str(), "tmpfs", 0, options.c_str()) != 0)
      error_ = errno;
  }
  ~SmallDisk() {
    if (available()) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }

  bool available() const { return error_ == 0; }
  std::string why_not() const {
    return "a tmpfs cannot be mounted here: " + std::generic_category().message(error_);
  }
  const std::filesystem::path& path() const { return folder_.path(); }
  std::uintmax_t free_bytes() const { return std::filesystem::space(path()).available; }

  /// From now on nothing on it can change.
  void make_read_only() {
    if (::mount(nullptr, folder_.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0)
      throw std::system_error(errno, std::generic_category(), "remount");
  }

 private:
  ScratchFolder folder_;
  int error_ = 0;
};

}  // namespace trestle::testing
