// Files are read whole, replaced atomically or not at all, locked, and checked; every failure says path and reason.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "falconet/base/checksum.h"
#include "falconet/base/error.h"
#include "falconet/base/file.h"
#include "error_text.h"

using namespace falconet;

namespace {

class Files : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/falconet_files_XXXXXX";
    folder = mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  std::string path(std::string const& name) const { return folder + "/" + name; }
  std::size_t entries() const { return std::size_t(std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator())); }
  std::string folder;
};

template <class F>
std::string error_of(F&& f, ErrorKind kind = ErrorKind::file) {
  return text_of_error(f, kind);
}

// A child process with a file-size limit: what a full disk looks like. Returns its exit code.
template <class F>
int with_file_size_limit(rlim_t bytes, F&& f) {
  pid_t const child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    rlimit const limit{bytes, bytes};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(99);
    _exit(f());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_F(Files, WhatIsWrittenIsReadBack) {
  for (std::size_t size : {0, 1, 4096, 1000003}) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = char(i * 7919 >> 3);
    write_atomically(path("a"), text);
    EXPECT_EQ(read_file(path("a")).text(), text);
    EXPECT_EQ(entries(), 1u);
  }
}

TEST_F(Files, AFileThatCannotBeReadIsNamedWithTheReason) {
  EXPECT_EQ(error_of([&] { read_file(path("missing")); }), path("missing") + ": cannot be opened: No such file or directory");
  EXPECT_EQ(error_of([&] { read_file(folder); }), folder + ": cannot be read: Is a directory");
}

TEST_F(Files, AFileThatSaysItIsEmptyIsReadToItsEnd) { EXPECT_GT(read_file("/proc/self/status").size, 100u); }

TEST_F(Files, AFileThatCannotBeWrittenIsNamedWithTheReason) {
  write_atomically(path("file"), "x");
  EXPECT_EQ(error_of([&] { write_atomically(path("file/below"), "x"); }), path("file/below") + ": cannot be written: Not a directory");
  EXPECT_EQ(error_of([&] { write_atomically(path("none/a"), "x"); }), path("none/a") + ": cannot be written: No such file or directory");
  EXPECT_EQ(error_of([&] { write_atomically("", "x"); }), "'': cannot be written: Is a directory");
  std::filesystem::create_directory(path("folder"));
  EXPECT_EQ(error_of([&] { write_atomically(path("folder"), "x"); }), path("folder") + ": cannot be replaced: Is a directory");
  EXPECT_EQ(entries(), 2u);
}

TEST_F(Files, AFolderWithoutPermissionIsSaid) {
  chmod(folder.c_str(), 0555);
  pid_t const child = fork();   // which root leaves its privilege in: root may write everywhere
  if (child == 0) {
    if (geteuid() == 0 && seteuid(65534) != 0) _exit(99);
    _exit(error_of([&] { write_atomically(path("a"), "x"); }) == path("a") + ": cannot be written: Permission denied" ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  chmod(folder.c_str(), 0755);
}

TEST_F(Files, WithoutACommitTheOldFileStays) {
  write_atomically(path("a"), "old");
  {
    AtomicFile file(path("a"));
    file.write("new");
    EXPECT_EQ(read_file(path("a")).text(), "old");
  }
  EXPECT_EQ(read_file(path("a")).text(), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, AFullDiskLeavesTheOldFileAndNothingElse) {
  write_atomically(path("a"), "old");
  int const code = with_file_size_limit(100000, [&] {
    std::string const message = error_of([&] { write_atomically(path("a"), std::string(300000, 'n')); });
    return message == path("a") + ": cannot be written: File too large" ? 0 : 1;
  });
  EXPECT_EQ(code, 0);
  EXPECT_EQ(read_file(path("a")).text(), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, ATemporaryOfAKilledProcessIsUsedAgain) {
  pid_t const child = fork();
  if (child == 0) {
    AtomicFile file(path("a"));
    file.write(std::string(5000, 'x'));
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(entries(), 1u);
  write_atomically(path("a"), "short");
  EXPECT_EQ(read_file(path("a")).text(), "short");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, TwoWritersOfOnePathDoNotDisturbEachOther) {
  AtomicFile first(path("a")), second(path("a"));
  first.write("first");
  second.write("second");
  first.commit();
  EXPECT_EQ(read_file(path("a")).text(), "first");
  second.commit();
  EXPECT_EQ(read_file(path("a")).text(), "second");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, ManyProcessesWriteOnePathAndItIsAlwaysWhole) {
  std::vector<pid_t> children;
  for (int c = 0; c < 4; ++c) {
    children.push_back(fork());
    if (children.back() == 0) {
      for (int i = 0; i < 50; ++i) write_atomically(path("a"), std::string(20000, char('a' + c)));
      _exit(0);
    }
  }
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  auto const bytes = read_file(path("a"));
  EXPECT_EQ(bytes.text(), std::string(20000, bytes.text()[0]));
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, FoldersAreMadeWithTheirParentsOrTheReasonIsSaid) {
  make_folders(path("x/y/z"));
  make_folders(path("x/y/z"));
  EXPECT_TRUE(std::filesystem::is_directory(path("x/y/z")));
  write_atomically(path("file"), "x");
  EXPECT_EQ(error_of([&] { make_folders(path("file/run")); }), path("file/run") + ": the folder cannot be made: Not a directory");
  EXPECT_EQ(error_of([&] { make_folders(path("file")); }), path("file") + ": the folder cannot be made: Not a directory");
}

TEST_F(Files, ALockHoldsAgainstOthersAndEndsWithItsProcess) {
  {
    FileLock lock(path("lock"));
    EXPECT_EQ(error_of([&] { FileLock again(path("lock")); }), path("lock") + ": in use by process " + std::to_string(getpid()));
  }
  FileLock lock(path("lock"));
  pid_t const child = fork();
  if (child == 0) {
    FileLock own(path("other"));
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  FileLock other(path("other"));
}

TEST_F(Files, TheChecksumIsCrc64) {
  auto crc = [](std::string_view text, std::uint64_t before = 0) { return crc64(std::as_bytes(std::span(text)), before); };
  EXPECT_EQ(crc("123456789"), 0x995DC9BBDF1939FAull);
  EXPECT_EQ(crc(""), 0u);
  std::string text(1000, 'a');
  for (std::size_t cut : {1, 7, 8, 500, 999}) EXPECT_EQ(crc(text.substr(cut), crc(text.substr(0, cut))), crc(text));
  for (std::size_t bit = 0; bit < 8000; ++bit) {
    auto flipped = text;
    flipped[bit / 8] = char(flipped[bit / 8] ^ 1 << bit % 8);
    ASSERT_NE(crc(flipped), crc(text));
  }
}

namespace {
int synced_folders = 0;   // since a name last changed
}
// Those of this program, in place of the C library's.
extern "C" int fsync(int descriptor) {
  struct stat info{};
  if (::fstat(descriptor, &info) == 0 && S_ISDIR(info.st_mode)) ++synced_folders;
  return int(::syscall(SYS_fsync, descriptor));
}
extern "C" int rename(char const* from, char const* to) noexcept {
  synced_folders = 0;
  return int(::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

TEST_F(Files, AFileThatTakesAnothersPlaceIsOnTheDisk) {
  write_atomically(path("a"), "old");
  write_atomically(path("b"), "new");
  synced_folders = 0;
  replace_file(path("b"), path("a"));
  EXPECT_EQ(synced_folders, 1);
  EXPECT_EQ(read_file(path("a")).text(), "new");
  EXPECT_EQ(entries(), 1u);
  EXPECT_EQ(error_of([&] { replace_file(path("b"), path("a")); }), path("a") + ": cannot be replaced by " + path("b") + ": No such file or directory");
}
