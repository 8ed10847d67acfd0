// Runs the falconet program as a user does, and makes small data sets for it.
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace falconet::testing {

namespace fs = std::filesystem;

inline std::string contents(fs::path const& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}
inline void write(fs::path const& file, std::string const& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

// An empty folder that goes with the object.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "falconet_test_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  Folder(Folder const&) = delete;
  Folder& operator=(Folder const&) = delete;
  fs::path path;
};

struct Result {
  int code = -1;  // exit code, or 128 + signal
  std::string out, err;
};

// A program that has been started; wait() ends it.
class Process {
 public:
  Process(std::vector<std::string> const& words, fs::path const& folder, rlim_t file_limit = RLIM_INFINITY) : folder_(folder) {
    static int number = 0;
    out_ = folder / (".stdout" + std::to_string(++number));
    err_ = folder / (".stderr" + std::to_string(number));
    std::vector<char*> arguments;
    program_ = FALCONET_PROGRAM;
    arguments.push_back(program_.data());
    words_ = words;
    for (auto& w : words_) arguments.push_back(w.data());
    arguments.push_back(nullptr);
    child_ = fork();
    if (child_ == 0) {
      int const out = open(out_.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600), err = open(err_.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
      dup2(out, 1), dup2(err, 2);
      if (chdir(folder.c_str()) != 0) _exit(99);
      unsetenv("FALCONET_DATA");
      if (file_limit != RLIM_INFINITY) {
        rlimit const limit{file_limit, file_limit};
        setrlimit(RLIMIT_FSIZE, &limit);
      }
      execv(program_.c_str(), arguments.data());
      _exit(98);
    }
  }
  ~Process() {
    if (child_ > 0) kill(SIGKILL), wait();
  }
  Process(Process const&) = delete;
  Process& operator=(Process const&) = delete;
  void kill(int signal) const { ::kill(child_, signal); }
  Result wait() {
    int status = 0;
    waitpid(child_, &status, 0);
    child_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), contents(out_), contents(err_)};
  }

 private:
  fs::path folder_, out_, err_;
  std::string program_;
  std::vector<std::string> words_;
  pid_t child_ = -1;
};

inline Result run(std::vector<std::string> const& words, fs::path const& folder, rlim_t file_limit = RLIM_INFINITY) {
  return Process(words, folder, file_limit).wait();
}

// Waits until it is true, at most 20 s.
inline bool eventually(std::function<bool()> const& condition) {
  auto const until = std::chrono::steady_clock::now() + std::chrono::seconds(120);   // a sanitizer or a busy machine makes a second of work many
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline std::string big_endian(std::uint32_t v) { return {char(v >> 24), char(v >> 16), char(v >> 8), char(v)}; }

// Images of 28x28 on which a bright square's place tells the label, with some noise, as IDX texts.
struct Digits {
  std::string images, labels;
};
inline Digits digits(int count, std::uint32_t seed) {
  Digits d{big_endian(0x803) + big_endian(std::uint32_t(count)) + big_endian(28) + big_endian(28),
           big_endian(0x801) + big_endian(std::uint32_t(count))};
  std::uint32_t state = seed * 2654435761u + 1;
  auto random = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
  for (int i = 0; i < count; ++i) {
    int const label = int(random() % 10), row = 3 + label / 4 * 8, column = 2 + label % 4 * 7;
    for (int y = 0; y < 28; ++y)
      for (int x = 0; x < 28; ++x) {
        bool const inside = y >= row && y < row + 5 && x >= column && x < column + 5;
        d.images += char(std::min<std::uint32_t>(255, (inside ? 150 : 0) + random() % 100));
      }
    d.labels += char(label);
  }
  return d;
}
inline void write_digits(fs::path const& folder, int train = 400, int test = 120) {
  auto const a = digits(train, 1), b = digits(test, 2);
  write(folder / "train-images-idx3-ubyte", a.images), write(folder / "train-labels-idx1-ubyte", a.labels);
  write(folder / "t10k-images-idx3-ubyte", b.images), write(folder / "t10k-labels-idx1-ubyte", b.labels);
}

}  // namespace falconet::testing
