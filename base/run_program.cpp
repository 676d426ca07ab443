#include "base/run_program.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <string_view>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace trestle {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kMostBytes = 1 << 20;

/// Both ends of a pipe, closed with it.
class Pipe {
 public:
  Pipe() {
    if (::pipe2(ends_.data(), O_CLOEXEC) != 0) ends_ = {-1, -1};
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  bool is_open() const { return ends_[0] >= 0; }
  int reader() const { return ends_[0]; }
  int writer() const { return ends_[1]; }
  void close_writer() { close_end(1); }

 private:
  void close_end(std::size_t end) {
    if (ends_[end] >= 0) ::close(ends_[end]);
    ends_[end] = -1;
  }
  std::array<int, 2> ends_{-1, -1};
};

/// Reads what is there; false at the end.
bool read_some(int file, std::string& text) {
  std::array<char, 4096> bytes{};
  const ssize_t got = ::read(file, bytes.data(), bytes.size());
  if (got < 0) return errno == EINTR || errno == EAGAIN;
  if (text.size() < kMostBytes) text.append(bytes.data(), static_cast<std::size_t>(got));
  return got > 0;
}

std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> all;
  for (const auto& word : words) all.push_back(const_cast<char*>(word.c_str()));
  all.push_back(nullptr);
  return all;
}

/// Our own variables, but for those that are given.
std::vector<std::string> with_own_environment(std::vector<std::string> given) {
  const std::size_t count = given.size();
  for (char** own = environ; own && *own; ++own) {
    const std::string_view name = std::string_view(*own).substr(0, std::strcspn(*own, "=") + 1);
    bool is_given = false;
    for (std::size_t i = 0; i < count; ++i) is_given |= given[i].starts_with(name);
    if (!is_given) given.emplace_back(*own);
  }
  return given;
}

int spawn(pid_t& pid, const std::vector<std::string>& command,
          const std::vector<std::string>& environment, const Pipe& output, const Pipe& errors) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, output.writer(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, errors.writer(), STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  const int problem = ::posix_spawnp(&pid, command.front().c_str(), &files, &attributes,
                                     pointers(command).data(), pointers(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return problem;
}

std::string last_line(std::string_view text) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  return std::string(text.substr(text.rfind('\n') + 1));
}

}  // namespace

ProgramAnswer run_program(const std::vector<std::string>& command,
                          const RunProgramOptions& options) {
  const std::string& name = command.front();
  ProgramAnswer answer;
  Pipe output, errors;
  if (!output.is_open() || !errors.is_open()) {
    answer.problem = fmt::format("no pipe for {} ({})", name, std::strerror(errno));
    return answer;
  }
  pid_t pid = 0;
  if (const int problem =
          spawn(pid, command, with_own_environment(options.environment), output, errors)) {
    answer.problem = fmt::format("{} cannot be started ({})", name, std::strerror(problem));
    return answer;
  }
  output.close_writer();
  errors.close_writer();

  const auto deadline = Clock::now() + options.limit;
  std::string said;
  bool more_output = true, more_errors = true, killed = false;
  // A grandchild may hold the pipes open: the program's own end counts as well.
  int status = 0;
  bool ended = false;
  while (!ended || more_output || more_errors) {
    if (!ended) ended = ::waitpid(pid, &status, WNOHANG) == pid;
    std::array files{pollfd{more_output ? output.reader() : -1, POLLIN, 0},
                     pollfd{more_errors ? errors.reader() : -1, POLLIN, 0}};
    ::poll(files.data(), files.size(), ended ? 0 : 20);
    if (files[0].revents) more_output = read_some(output.reader(), answer.output);
    if (files[1].revents) more_errors = read_some(errors.reader(), said);
    if (ended && !files[0].revents && !files[1].revents) break;
    if (ended) continue;
    const bool given_up = options.give_up && options.give_up();
    if (given_up || Clock::now() >= deadline) {
      ::kill(-pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      killed = true;
      break;
    }
  }
  if (killed) {
    answer.problem = fmt::format("{} has not answered within {} s", name,
                                 std::chrono::duration<double>(options.limit).count());
  } else if (WIFSIGNALED(status)) {
    answer.problem = fmt::format("{} was ended by signal {}", name, WTERMSIG(status));
  } else if (WEXITSTATUS(status) != 0) {
    answer.problem =
        fmt::format("{} exited with {}: {}", name, WEXITSTATUS(status), last_line(said));
  }
  return answer;
}

}  // namespace trestle
