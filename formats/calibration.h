// What communication and computation were measured to cost, for predictions: the file that `trestle
// bench comm --save` and `trestle bench step --save` write.
//
//   {"format": "trestle calibration", "version": 1, "world": 2,
//    "hosts": [{"name": "a", "ranks": 2}], "levels": 1, "computing_lost": 0.1,
//    "operations": {"all_gather": {"latency_s": 1e-05, "bytes_per_s": 3e9,
//                                  "points": [{"bytes": 1024, "median_s": 1.1e-05}],
//                                  "slow": {"latency_s": 2e-05, "bytes_per_s": 2e9}}, ...},
//    "compute": {"task": "sana_bridge", "parameters": 1200000, "micro_batch": 8,
//                "checkpoint_every": 0, "sample_bytes": 98304, "forward_s_per_sample": 0.01,
//                "backward_s_per_sample": 0.02, "optimizer_s_per_element": 1e-9}}
//
// The time of a collective is latency_s + bytes / bytes_per_s, bytes of the whole tensor; "slow" is
// there where the link was seen in two modes. "levels" are those of dist.two_level (1 where a file
// does not say). "computing_lost" is the share of a rank's speed that communication takes while it
// is under way. "compute" is there once `bench step` has measured it, and holds for what it names
// only.
// LOCAL. THREADS: any. ERRORS: ExitCode::data, naming the file and what is wrong.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::formats {

struct Calibration {
  struct Host {
    std::string name = {};
    std::int64_t ranks = 1;
  };
  struct Point {
    std::int64_t bytes = 0;
    double median_s = 0;
  };
  struct Cost {
    double latency_s = 0, bytes_per_s = 1;
    double seconds(double bytes) const { return latency_s + bytes / bytes_per_s; }
  };
  struct Operation : Cost {
    std::vector<Point> points = {};  ///< what was fitted
    std::optional<Cost> slow = {};   ///< of the slow mode, where the link has two
  };
  /// Time without communication, of one rank among as many as the calibration has.
  struct Compute {
    std::string task = {};
    std::int64_t parameters = 0, micro_batch = 1, checkpoint_every = 0;
    std::int64_t sample_bytes = 0;
    double forward_s_per_sample = 0, backward_s_per_sample = 0, optimizer_s_per_element = 0;
  };

  std::int64_t world = 1;
  std::vector<Host> hosts = {};
  int levels = 1;             ///< of reductions and gathers (dist/two_level.h)
  double computing_lost = 0;  ///< below 1
  std::map<std::string, Operation, std::less<>> operations = {};
  std::optional<Compute> compute = {};
};

/// `name` is what messages call the text.
Calibration parse_calibration(std::string_view text, std::string_view name);
Calibration read_calibration(const std::filesystem::path& file);
std::string to_text(const Calibration& calibration);

}  // namespace trestle::formats
