// Why a foreign file was refused and what to do about it. Whoever knows the file's name turns it
// into an Error. For .cpp files of this room, as strict_json.h is.
// LOCAL. THREADS: any.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace trestle::formats {

class FileProblem : public std::runtime_error {
 public:
  /// `what_to_do`: a sentence that outlives this.
  FileProblem(const std::string& what, std::string_view what_to_do)
      : std::runtime_error(what), what_to_do_(what_to_do) {}
  std::string_view what_to_do() const { return what_to_do_; }

 private:
  std::string_view what_to_do_;
};

constexpr std::string_view kGetAgain = "Download or export it again.";

/// A file that is not what it should be.
template <class... Args>
[[noreturn]] void refuse_damaged(fmt::format_string<Args...> format, Args&&... args) {
  throw FileProblem(fmt::format(format, std::forward<Args>(args)...), kGetAgain);
}

}  // namespace trestle::formats
