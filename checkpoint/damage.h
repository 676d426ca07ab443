// Damage: bytes of a checkpoint that are not what its save wrote, told apart from every other
// reason why it cannot be loaded. Damage lets a run go back to the checkpoint before; another
// model, missing rights or a disk that answers with errors do not, and nothing is renamed for them.
//
// LOCAL, no torch. THREADS: any.
#pragma once
#include "base/error.h"

#include <cstdint>
#include <filesystem>
#include <string>

namespace trestle::checkpoint {

/// Bytes [begin, end) of a file of the checkpoint, and what lies there.
struct Damage {
  std::string file;  ///< inside the checkpoint's folder
  std::uint64_t begin = 0, end = 0;
  std::string what;  ///< "tensor model/x.weight", "HDF5 metadata", or what is wrong with the file
};

/// An error of ExitCode::checkpoint that says: the stored bytes are not the right ones.
class DamageError : public Error {
 public:
  DamageError(const std::string& message, Damage damage)
      : Error(ExitCode::checkpoint, message), damage_(std::move(damage)) {}
  const Damage& damage() const { return damage_; }

 private:
  Damage damage_;
};

/// Inside a catch block: throws the exception that is being handled on; as a DamageError if it is
/// of a file of the checkpoint that is missing, too short or no file at all. What the system says
/// instead (no rights, an I/O error, a stale handle) is no damage.
[[noreturn]] void rethrow_file_error(const std::filesystem::path& file, std::uint64_t bytes);

}  // namespace trestle::checkpoint
