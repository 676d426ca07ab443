#include "launch/doctor/folder.h"

#include "base/error.h"
#include "base/files.h"
#include "checkpoint/lease.h"
#include "dist/binding.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <random>
#include <sstream>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace trestle::launch::doctor {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(FolderFacts, host, tried, problem, type, options, free_bytes,
                                   total_bytes, free_inodes, is_in_the_way, holder, is_held,
                                   tests_host, replaces_files, moves_folders, swaps_folders,
                                   syncs_folders, links, written_bytes, written_s, won_link,
                                   won_creation, sees_others, sees_replaced)

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kPieceBytes = std::size_t{8} << 20;
constexpr double kMostBytes = 256e6;
constexpr double kMostSeconds = 2;

/// mountinfo writes a blank in a path as \040.
std::string unescaped(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

/// Type and options of what is mounted where the folder lies.
void find_mount(const fs::path& folder, FolderFacts& facts) {
  std::ifstream in("/proc/self/mountinfo");
  std::size_t longest = 0;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point, options, field, type, source, more;
    fields >> id >> parent >> device >> root >> point >> options;
    while (fields >> field && field != "-") continue;
    fields >> type >> source >> more;
    const std::string place = unescaped(point);
    const auto [stop, rest] =
        std::mismatch(place.begin(), place.end(), folder.native().begin(), folder.native().end());
    const bool is_above =
        stop == place.end() && (place == "/" || rest == folder.native().end() || *rest == '/');
    if (!is_above || place.size() < longest) continue;
    longest = place.size();
    facts.type = type;
    facts.options = fmt::format("{},{}", options, more);
  }
}

fs::path nearest_that_exists(fs::path folder) {
  std::error_code ignored;
  while (!fs::is_directory(folder, ignored) && folder.has_relative_path())
    folder = folder.parent_path();
  return fs::canonical(folder, ignored);
}

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  std::string text;
  std::getline(in, text);
  return text;
}

void write(const fs::path& file, const std::string& text) {
  write_file_durable(file, text, ExitCode::environment);
}

bool create_alone(const fs::path& file) {
  const int made = ::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (made >= 0) ::close(made);
  return made >= 0;
}

/// What a save and a lease do with names, in a folder of this host's own.
void try_names(const fs::path& folder, FolderFacts& facts) {
  fs::create_directory(folder);
  write(folder / "old", "old");
  write(folder / "new", "new");
  facts.replaces_files = ::rename((folder / "new").c_str(), (folder / "old").c_str()) == 0 &&
                         text_of(folder / "old") == "new" && !fs::exists(folder / "new");
  facts.links = ::link((folder / "old").c_str(), (folder / "second").c_str()) == 0 &&
                ::link((folder / "old").c_str(), (folder / "second").c_str()) != 0;
  for (const char* name : {"step-1", "step-2"}) {
    fs::create_directory(folder / name);
    write(folder / name / "manifest", name);
  }
  facts.moves_folders = ::rename((folder / "step-1").c_str(), (folder / "step-3").c_str()) == 0 &&
                        text_of(folder / "step-3" / "manifest") == "step-1" &&
                        !fs::exists(folder / "step-1");
  facts.swaps_folders = ::renameat2(AT_FDCWD, (folder / "step-2").c_str(), AT_FDCWD,
                                    (folder / "step-3").c_str(), RENAME_EXCHANGE) == 0 &&
                        text_of(folder / "step-3" / "manifest") == "step-2";
  const int opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  facts.syncs_folders = opened >= 0 && ::fsync(opened) == 0;
  if (opened >= 0) ::close(opened);
}

/// Writes and waits for the disk, for at most so many bytes and seconds.
void try_writing(const fs::path& file, FolderFacts& facts) {
  std::vector<std::uint64_t> piece(kPieceBytes / sizeof(std::uint64_t));
  std::mt19937_64 random(1);  // some file systems compress
  std::ranges::generate(piece, random);
  const double most = std::min(kMostBytes, 0.05 * double(facts.free_bytes));
  const FileWriter writer(file, ExitCode::environment);
  const auto started = Clock::now();
  while (facts.written_s < kMostSeconds && facts.written_bytes + double(kPieceBytes) <= most) {
    writer.write_exact(static_cast<std::uint64_t>(facts.written_bytes),
                       std::as_bytes(std::span(piece)));
    writer.sync();
    facts.written_bytes += double(kPieceBytes);
    facts.written_s = std::chrono::duration<double>(Clock::now() - started).count();
  }
}

void look_at_holder(const fs::path& folder, FolderFacts& facts) {
  const auto sight = checkpoint::look_at_lease(folder);
  if (sight.epoch == 0) return;
  facts.holder = sight.record ? sight.record->to_text() : sight.damage;
  const auto me = checkpoint::this_process(1);
  facts.is_held =
      !sight.record || checkpoint::judge(*sight.record, me) == checkpoint::Standing::unknown;
}

/// One rank's attempts, between which all meet. After the first failure the others only keep step.
class Attempts {
 public:
  Attempts(const dist::Communicator& world, FolderFacts& facts) : world_(world), facts_(facts) {}

  template <class F>
  void together(F&& attempt) {
    if (facts_.problem.empty()) {
      try {
        attempt();
      } catch (const std::exception& error) {
        facts_.problem = error.what();
      }
    }
    world_.barrier();
  }

 private:
  const dist::Communicator& world_;
  FolderFacts& facts_;
};

}  // namespace

std::vector<FolderFacts> probe_folder(const dist::Communicator& world, const fs::path& folder) {
  FolderFacts mine;
  mine.host = dist::host_name();
  const auto hosts = world.all_gather_bytes(mine.host);
  const int rank = world.rank(), size = world.size();
  mine.tests_host = std::ranges::find(hosts, mine.host) - hosts.begin() == rank;

  std::error_code ignored;
  std::random_device random;
  const fs::path here = nearest_that_exists(fs::absolute(folder, ignored));
  // Every rank goes where rank 0 does.
  const fs::path tried = world.broadcast_bytes(here.string(), 0);
  const fs::path scratch =
      tried / world.broadcast_bytes(fmt::format(".trestle-doctor-{:08x}", random()), 0);
  mine.tried = tried.string();
  find_mount(tried, mine);
  struct statvfs space {};
  if (::statvfs(tried.c_str(), &space) == 0) {
    mine.total_bytes = static_cast<std::int64_t>(space.f_blocks * space.f_frsize);
    mine.free_bytes = static_cast<std::int64_t>(space.f_bavail * space.f_frsize);
    if (space.f_files > 0) mine.free_inodes = static_cast<std::int64_t>(space.f_favail);
  }

  Attempts attempts(world, mine);
  const std::string own = fmt::format("rank-{}", rank);
  attempts.together([&] {
    if (rank == 0) {
      mine.is_in_the_way = fs::exists(folder) && !fs::is_directory(folder);
      if (fs::is_directory(folder)) look_at_holder(folder, mine);
      fs::create_directory(scratch);
      write(scratch / "replaced", "before");
    }
  });
  attempts.together([&] {
    if (text_of(scratch / "replaced") != "before")
      fail(ExitCode::environment, "{} of rank 0 is not there on {}", scratch.string(), mine.host);
    write(scratch / own, own);
  });
  attempts.together([&] {
    mine.won_link = ::link((scratch / own).c_str(), (scratch / "linked").c_str()) == 0;
    mine.won_creation = create_alone(scratch / "created");
    if (rank != 0) return;
    write(scratch / "draft", "after");
    fs::rename(scratch / "draft", scratch / "replaced");
  });
  attempts.together([&] {
    mine.sees_replaced = text_of(scratch / "replaced") == "after";
    mine.sees_others = true;
    for (int step = 1; step <= std::min(size, 64); ++step) {
      const std::string other = fmt::format("rank-{}", (rank + step) % size);
      mine.sees_others = mine.sees_others && text_of(scratch / other) == other;
    }
  });
  attempts.together([&] {
    if (!mine.tests_host) return;
    try_names(scratch / ("names-" + own), mine);
    try_writing(scratch / ("bytes-" + own), mine);
  });
  if (rank == 0) fs::remove_all(scratch, ignored);

  std::vector<FolderFacts> ranks;
  const auto text =
      nlohmann::json(mine).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  for (const std::string& one : world.all_gather_bytes(text))
    ranks.push_back(nlohmann::json::parse(one).get<FolderFacts>());
  return ranks;
}

}  // namespace trestle::launch::doctor
