// Saves and loads training state, a round at a time: the contender of dcp_ranks.py, with the same
// tensors (master, both moments and an average, in fp32, each divided over the ranks by rows), the
// same options and the same protocol.
//
//   mpirun -n 2 checkpoint_trestle --folder runs/try
//
// Rank 0 reads the requests and answers one JSON line to each; times are the slowest rank's, until
// all have arrived:
//
//   save 1    checkpoint::save into a new folder
//   plain N   N steps: products that stand for forward and backward, and an update of all the state
//   async N   the same, with a save that begins before the first and ends before the last
//   bare N, bare_async N   the same without the products: nothing to hide a copy behind
//   load 1    checkpoint::load of what the last save wrote, into tensors that are there
//   check 1   whether what was loaded last is the state
//   raw 1     each rank writes a file as large as its shard from memory, and syncs it
//   raw_direct 1  the same past the page cache (O_DIRECT)
//   read 1    each rank reads its shard of the last save, as bytes
//   copy N    each rank copies its state into memory that is there, N times
#include "base/files.h"
#include "base/torch/draws.h"
#include "benchmarks/on_all_ranks.h"
#include "benchmarks/process_memory.h"
#include "benchmarks/rounds.h"
#include "checkpoint/async_saver.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "dist/collectives.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

namespace {

using namespace trestle;
namespace fs = std::filesystem;

constexpr std::array kPlanes = {"master", "exp_avg", "exp_avg_sq", "ema"};
constexpr std::int64_t kColumns = 1024;
constexpr std::int64_t kProduct = 512;  // the side of the matrices that are multiplied
constexpr std::size_t kRawBytes = std::size_t{8} << 20;  // that a write or read takes at once
constexpr std::int64_t kPage = 4096;                     // whose multiples O_DIRECT takes

struct Arguments {
  std::string folder;
  std::int64_t mb = 2048, tensors = 64, products = 100, threads = 1;
  std::uint64_t staging_bytes = 0;
};

/// This rank's rows of every tensor, one flat plane after the other, as training holds them. Tensor
/// i of every plane is updated at stage i.
class State {
 public:
  State(const Arguments& arguments, const dist::Communicator& world, bool fill) {
    const std::int64_t planes = kPlanes.size();
    rows_ = (arguments.mb << 20) / (4 * planes * arguments.tensors * kColumns);
    TRESTLE_REQUIRE(rows_ > 0 && rows_ % world.size() == 0,
                    "--mb {} gives each tensor {} rows, which {} ranks cannot share. Take a "
                    "multiple of {}.",
                    arguments.mb, rows_, world.size(),
                    4 * planes * arguments.tensors * kColumns * world.size() >> 20);
    const std::int64_t mine = rows_ / world.size() * kColumns;  // of one tensor
    begin_ = static_cast<std::uint64_t>(mine * world.rank());
    for (const char* plane : kPlanes) {
      const at::Tensor flat =
          fill ? Draws(1).normal(Purpose(plane), {arguments.tensors * mine}, at::kFloat)
               : at::zeros({arguments.tensors * mine}, at::kFloat);
      planes_.push_back(flat);
      for (std::int64_t i = 0; i < arguments.tensors; ++i)
        pieces_.push_back({fmt::format("{}/layers.{}.weight", plane, i),
                           flat.narrow(0, i * mine, mine), static_cast<checkpoint::Stage>(i)});
    }
  }

  checkpoint::Visitor visitor() {
    return [this](checkpoint::Scope& scope) {
      for (auto& [name, elements, stage] : pieces_)
        scope.at_stage(stage).piece(name, elements, {rows_, kColumns}, begin_);
    };
  }
  /// Changes all of it in place, bucket by bucket, as an optimizer does.
  void update(checkpoint::SaveUnderWay& saving) {
    const std::size_t tensors = pieces_.size() / kPlanes.size();
    for (std::size_t i = 0; i < tensors; ++i) {
      saving.before_change(static_cast<checkpoint::Stage>(i));
      for (std::size_t plane = 0; plane < kPlanes.size(); ++plane)
        pieces_[plane * tensors + i].elements.mul_(1 + 1e-7);
    }
  }
  const std::vector<at::Tensor>& planes() const { return planes_; }
  std::uint64_t bytes() const {
    std::uint64_t all = 0;
    for (const at::Tensor& plane : planes_) all += plane.nbytes();
    return all;
  }

 private:
  std::int64_t rows_ = 0;
  std::uint64_t begin_ = 0;
  struct Piece {
    std::string name;
    at::Tensor elements;
    checkpoint::Stage stage;
  };
  std::vector<at::Tensor> planes_;
  std::vector<Piece> pieces_;
};

std::span<std::byte> bytes_of(const at::Tensor& plane) {
  return {static_cast<std::byte*>(plane.data_ptr()), plane.nbytes()};
}

class Rounds {
 public:
  Rounds(const Arguments& arguments, const dist::Communicator& world)
      : world_(world),
        arguments_(arguments),
        folder_(arguments.folder),
        state_(arguments, world, /*fill=*/true),
        matrix_(Draws(2).normal(Purpose("product"), {kProduct, kProduct}, at::kFloat)),
        collectives_(dist::make_collectives(world, "saving")),
        saver_({.rank = world.rank(),
                .world = world.size(),
                .tag = checkpoint::agreed_tag(world),
                .staging_bytes = arguments.staging_bytes}) {
    world.agreed([&] {
      if (world.is_root()) fs::create_directories(folder_);
    });
  }

  nlohmann::json save() {
    forget_last_save();
    benchmarks::PeakMemory memory;
    const double save_s = timed([&] {
      saver_.begin(checkpoint::collect(state_.visitor()), next_save());
      settle();
    });
    return answer({{"save_s", save_s}, {"grown_bytes", largest(double(memory.grown_bytes()))}});
  }

  nlohmann::json plain(std::int64_t steps, std::int64_t products) {
    const double steps_s = timed([&] { take_steps(steps, products); });
    return answer({{"steps_s", steps_s}});
  }

  nlohmann::json async(std::int64_t steps, std::int64_t products) {
    forget_last_save();
    benchmarks::PeakMemory memory;
    const double waited_before_s = saver_.waited_s();
    double saved_s = 0, waited_s = 0;
    const benchmarks::Stopwatch watch;
    const double steps_s = timed([&] {
      saver_.begin(checkpoint::collect(state_.visitor()), next_save());
      take_steps(steps, products, [&] { saved_s = watch.wall_s(); });
      waited_s = saver_.waited_s() - waited_before_s;
    });
    settle();
    if (saved_s == 0) saved_s = watch.wall_s();  // the steps were too few
    return answer({{"steps_s", steps_s},
                   {"saved_s", saved_s},
                   {"waited_s", largest(waited_s)},
                   {"grown_bytes", largest(double(memory.grown_bytes()))}});
  }

  nlohmann::json load() {
    require_save();
    State& into = loaded();
    const double load_s =
        timed([&] { world_.agreed([&] { checkpoint::load(last_, into.visitor()); }); });
    return answer({{"load_s", load_s}});
  }

  nlohmann::json check() {
    double differs = 0;
    for (std::size_t i = 0; i < kPlanes.size(); ++i) {
      const auto a = bytes_of(state_.planes()[i]), b = bytes_of(loaded().planes()[i]);
      if (std::memcmp(a.data(), b.data(), a.size()) != 0) differs = 1;
    }
    return answer({{"different_ranks", largest(differs)}});
  }

  nlohmann::json raw() {
    return raw_write([&](const fs::path& file) {
      const FileWriter writer(file, ExitCode::environment);
      std::uint64_t at = 0;
      for (const at::Tensor& plane : state_.planes()) {
        for (std::span<std::byte> rest = bytes_of(plane); !rest.empty();) {
          const auto part = rest.first(std::min(rest.size(), kRawBytes));
          writer.write_exact(at, part);
          at += part.size();
          rest = rest.subspan(part.size());
        }
      }
      writer.sync();
    });
  }

  /// Past the page cache, as a save does it where it can; the same bytes again and again, since
  /// O_DIRECT takes them from whole pages only.
  nlohmann::json raw_direct() {
    const auto bytes = static_cast<std::int64_t>(kRawBytes);
    const at::Tensor pages = at::ones({bytes + kPage}, at::kByte);
    const auto begin = reinterpret_cast<std::uintptr_t>(pages.data_ptr());
    const std::byte* const whole = bytes_of(pages).data() + (kPage - begin % kPage);
    return raw_write([&](const fs::path& file) {
      const FileWriter writer(file, ExitCode::environment);
      const int direct = ::open(file.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC);
      const std::uint64_t all = state_.bytes() / kRawBytes * kRawBytes;
      bool is_written = direct >= 0;
      for (std::uint64_t at = 0; is_written && at < all; at += kRawBytes) {
        is_written = ::pwrite(direct, whole, kRawBytes, static_cast<off_t>(at)) == bytes;
      }
      const int reason = errno;
      if (direct >= 0) ::close(direct);
      TRESTLE_REQUIRE(is_written,
                      "{} cannot be written with O_DIRECT ({}). Measure on another file system "
                      "(--folder).",
                      file.string(), std::strerror(reason));
      writer.sync();
    });
  }

  nlohmann::json read() {
    require_save();
    const fs::path file =
        last_ / fmt::format("shard-{:05}-of-{:05}.h5", world_.rank(), world_.size());
    const State& into = loaded();  // where a load puts the bytes
    const double read_s = timed([&] {
      world_.agreed([&] {
        const FileReader reader(file, ExitCode::environment);
        std::uint64_t at = 0;
        for (const at::Tensor& plane : into.planes()) {
          for (std::span<std::byte> rest = bytes_of(plane); !rest.empty();) {
            const auto part = rest.first(std::min(rest.size(), kRawBytes));
            reader.read_exact(at, part);
            at += part.size();
            rest = rest.subspan(part.size());
          }
        }
      });
    });
    return answer({{"read_s", read_s}});
  }

  nlohmann::json copy(std::int64_t times) {
    const State& into = loaded();
    const double copy_s = timed([&] {
      for (std::int64_t i = 0; i < times; ++i)
        for (std::size_t plane = 0; plane < kPlanes.size(); ++plane) {
          const auto from = bytes_of(state_.planes()[plane]);
          std::memcpy(into.planes()[plane].data_ptr(), from.data(), from.size());
        }
    });
    return answer({{"copy_s", copy_s / double(times)}});
  }

 private:
  template <class F>
  double timed(F&& f) const {
    world_.barrier();
    const benchmarks::Stopwatch watch;
    std::forward<F>(f)();
    world_.barrier();
    return watch.wall_s();
  }
  /// Seconds of `write`, which makes a file of this rank's.
  nlohmann::json raw_write(const std::function<void(const fs::path&)>& write) const {
    const fs::path file = folder_ / fmt::format("raw-{}", world_.rank());
    world_.agreed([&] { fs::remove(file); });
    const double write_s = timed([&] { world_.agreed([&] { write(file); }); });
    world_.agreed([&] { fs::remove(file); });
    return answer({{"write_s", write_s}});
  }
  double largest(double value) const {
    world_.all_reduce(std::span(&value, 1), dist::ReduceOp::max);
    return value;
  }
  void forward_and_backward(std::int64_t products) const {
    for (std::int64_t i = 0; i < products; ++i) at::mm(matrix_, matrix_);
  }
  /// As a training step does: what the ranks say of a save travels with the sums of a step.
  void take_steps(
      std::int64_t steps, std::int64_t products, const std::function<void()>& when_saved = [] {}) {
    for (std::int64_t step = 0; step < steps; ++step) {
      forward_and_backward(products);
      const checkpoint::SaveFlags mine = saver_.flags();
      std::array flags = {mine.written, mine.failed, mine.sealed};
      world_.all_reduce(std::span(flags), dist::ReduceOp::sum);
      const bool was_under_way = saver_.under_way();
      saver_.learn({.written = flags[0], .failed = flags[1], .sealed = flags[2]});
      if (was_under_way && !saver_.under_way()) when_saved();
      state_.update(saver_);
    }
  }
  checkpoint::SaveRequest next_save() {
    return {.folder = folder_, .step = ++saves_, .recipe_toml = "", .recipe_hash = ""};
  }
  /// Until the save is over; it must have come off.
  void settle() {
    checkpoint::settle(saver_, *collectives_);
    const auto result = saver_.take_result();
    if (!result->sealed) world_.agree(result->why_not);
    last_ = result->checkpoint;
  }
  /// Memory that is there before it is needed, but not where nothing is loaded.
  State& loaded() {
    if (!loaded_) loaded_.emplace(arguments_, world_, /*fill=*/false);
    return *loaded_;
  }
  /// Rank 0's words.
  nlohmann::json answer(nlohmann::json numbers) const {
    if (!world_.is_root()) return {};
    numbers["bytes"] = state_.bytes() * static_cast<std::uint64_t>(world_.size());
    return numbers;
  }
  void forget_last_save() {
    world_.agreed([&] {
      if (world_.is_root() && !last_.empty()) fs::remove_all(last_);
    });
  }
  void require_save() const {
    TRESTLE_REQUIRE(!last_.empty(), "nothing is saved yet (say \"save 1\" first).");
  }

  const dist::Communicator& world_;
  const Arguments& arguments_;
  fs::path folder_, last_;
  State state_;
  std::optional<State> loaded_;
  at::Tensor matrix_;
  std::unique_ptr<dist::Collectives> collectives_;
  checkpoint::AsyncSaver saver_;
  std::int64_t saves_ = 0;
};

void measure(const Arguments& arguments, const dist::Communicator& world) {
  at::set_num_threads(static_cast<int>(arguments.threads));
  Rounds rounds(arguments, world);
  const auto once = [](auto&& f) { return [f](std::int64_t) { return f(); }; };
  benchmarks::serve({{"save", once([&] { return rounds.save(); })},
                     {"plain", [&](auto steps) { return rounds.plain(steps, arguments.products); }},
                     {"async", [&](auto steps) { return rounds.async(steps, arguments.products); }},
                     {"bare", [&](auto steps) { return rounds.plain(steps, 0); }},
                     {"bare_async", [&](auto steps) { return rounds.async(steps, 0); }},
                     {"load", once([&] { return rounds.load(); })},
                     {"check", once([&] { return rounds.check(); })},
                     {"raw", once([&] { return rounds.raw(); })},
                     {"raw_direct", once([&] { return rounds.raw_direct(); })},
                     {"read", once([&] { return rounds.read(); })},
                     {"copy", [&](std::int64_t times) { return rounds.copy(times); }}},
                    [&] {
                      return world.broadcast_bytes(world.is_root() ? benchmarks::read_line() : "",
                                                   /*root=*/0);
                    });
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Trestle's side of benchmarks/checkpoint: answers requests on rank 0");
  app.add_option("--folder", arguments.folder, "where checkpoints go")->required();
  app.add_option("--mb", arguments.mb, "MiB of all state");
  app.add_option("--tensors", arguments.tensors, "parameters");
  app.add_option("--products", arguments.products, "that a step multiplies");
  app.add_option("--threads", arguments.threads, "of each rank");
  app.add_option("--staging-bytes", arguments.staging_bytes, "at most on each rank; 0: all");
  return benchmarks::run(app, argc, argv, [&] {
    benchmarks::on_all_ranks([&](const dist::Communicator& world) { measure(arguments, world); });
  });
}
