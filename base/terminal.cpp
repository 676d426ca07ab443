#include "base/terminal.h"

#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <string>
#include <sys/ioctl.h>
#include <unistd.h>

namespace trestle {
namespace {

/// A descriptor of the terminal that stderr ends on, or -1. Opened once and kept.
int find_terminal() {
  if (isatty(STDERR_FILENO) != 0) return STDERR_FILENO;
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return -1;
  const std::string launcher = "/proc/" + std::to_string(getppid());
  std::string name;
  std::getline(std::ifstream(launcher + "/comm"), name);
  if (name != "mpirun" && name != "mpiexec" && name != "orterun") return -1;
  const int descriptor = open((launcher + "/fd/2").c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (descriptor >= 0 && isatty(descriptor) == 0) {
    close(descriptor);
    return -1;
  }
  return descriptor;
}

int terminal() {
  static const int descriptor = find_terminal();
  return descriptor;
}

}  // namespace

bool stderr_is_terminal() { return terminal() >= 0; }

std::size_t terminal_columns() {
  winsize size{};
  const bool known = terminal() >= 0 && ioctl(terminal(), TIOCGWINSZ, &size) == 0;
  return known && size.ws_col > 10 ? size.ws_col : 80;
}

}  // namespace trestle
