// RUN: qvit-opt %s --split-input-file --delay-dequant | filecheck %s

// Dequantization goes behind a product where no scale varies along the contracted axis. The reasons for which it does not
// are in delay_dequant_report.mlir.

func.func @matmul(%a: tensor<2x3xui8>, %b: tensor<3x4xi8>) -> tensor<2x4xf32> {
  %x = qvit.dequantize %a <0.5, zero_point = 128> : tensor<2x3xui8> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <0.1, zero_point = -3> : tensor<3x4xi8> -> tensor<3x4xf32>
  %c = qvit.matmul %x, %y : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-LABEL: @matmul
// CHECK-SAME:    (%[[A:.*]]: tensor<2x3xui8>, %[[B:.*]]: tensor<3x4xi8>)
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul %[[A]], %[[B]] lhs_zero_point <128> rhs_zero_point <-3> : (tensor<2x3xui8>, tensor<3x4xi8>) -> tensor<2x4xi32>
// CHECK-NEXT:    %[[C:.*]] = qvit.dequantize %[[P]] <0.5 * 0.1> : tensor<2x4xi32> -> tensor<2x4xf32>
// CHECK-NEXT:    return %[[C]]

// -----

// Scores: the rows of the left operand are rows of the result.
func.func @matmul_per_row(%a: tensor<2x3xi8>, %b: tensor<3x4xi8>) -> tensor<2x4xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <0.1> : tensor<3x4xi8> -> tensor<3x4xf32>
  %c = qvit.matmul %x, %y : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-LABEL: @matmul_per_row
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul
// CHECK-NEXT:    qvit.dequantize %[[P]] <[0.5, 0.25] * 0.1, axis = 0>

// -----

// The columns of the right operand are columns of the result; they may have zero points of their own.
func.func @matmul_per_column(%a: tensor<2x3xi8>, %b: tensor<3x2xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %a <0.1, zero_point = 7> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <[0.5, 0.25], zero_point = [1, 2], axis = 1> : tensor<3x2xi8> -> tensor<3x2xf32>
  %c = qvit.matmul %x, %y : (tensor<2x3xf32>, tensor<3x2xf32>) -> tensor<2x2xf32>
  func.return %c : tensor<2x2xf32>
}
// CHECK-LABEL: @matmul_per_column
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul %{{.*}} lhs_zero_point <7> rhs_zero_point <[1, 2]>
// CHECK-NEXT:    qvit.dequantize %[[P]] <0.1 * [0.5, 0.25], axis = 1>

// -----

// Zero points by column, one scale: nothing varies in the result.
func.func @matmul_zero_point_per_column(%a: tensor<2x3xi8>, %b: tensor<3x2xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <0.1, zero_point = [1, 2], axis = 1> : tensor<3x2xi8> -> tensor<3x2xf32>
  %c = qvit.matmul %x, %y : (tensor<2x3xf32>, tensor<3x2xf32>) -> tensor<2x2xf32>
  func.return %c : tensor<2x2xf32>
}
// CHECK-LABEL: @matmul_zero_point_per_column
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul %{{.*}} rhs_zero_point <[1, 2]>
// CHECK-NEXT:    qvit.dequantize %[[P]] <[0.5, 0.25] * 0.1, axis = 0>

// -----

// Two axes: the scale of the rows multiplies behind the dequantize.
func.func @matmul_per_row_and_column(%a: tensor<2x3xi8>, %b: tensor<3x4xi8>) -> tensor<2x4xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25] / 3.0, axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <[3.0, 5.0, 7.0, 9.0], axis = 1> : tensor<3x4xi8> -> tensor<3x4xf32>
  %c = qvit.matmul %x, %y : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-LABEL: @matmul_per_row_and_column
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul
// CHECK-NEXT:    %[[D:.*]] = qvit.dequantize %[[P]] <[3.0, 5.0, 7.0, 9.0], axis = 1>
// CHECK-NEXT:    %[[S:.*]] = qvit.constant dense<{{\[}}[5.000000e-01], [2.500000e-01]]> : tensor<2x1xf32>
// CHECK-NEXT:    %[[M:.*]] = qvit.mul %[[D]], %[[S]]
// CHECK-NEXT:    %[[T:.*]] = qvit.constant dense<3.000000e+00> : tensor<f32>
// CHECK-NEXT:    %[[C:.*]] = qvit.div %[[M]], %[[T]]
// CHECK-NEXT:    return %[[C]]

// -----

// Heads: one scale a batch index on both sides, of operands with different ranks.
func.func @matmul_per_head(%a: tensor<1x2x3x4xi8>, %b: tensor<2x4x5xi8>) -> tensor<1x2x3x5xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 1> : tensor<1x2x3x4xi8> -> tensor<1x2x3x4xf32>
  %y = qvit.dequantize %b <[3.0, 5.0], axis = 0> : tensor<2x4x5xi8> -> tensor<2x4x5xf32>
  %c = qvit.matmul %x, %y : (tensor<1x2x3x4xf32>, tensor<2x4x5xf32>) -> tensor<1x2x3x5xf32>
  func.return %c : tensor<1x2x3x5xf32>
}
// CHECK-LABEL: @matmul_per_head
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul
// CHECK-NEXT:    qvit.dequantize %[[P]] <[0.5, 0.25] * [3.0, 5.0], axis = 1>

// -----

// The right operand's columns, where the result has more dimensions than the operand.
func.func @matmul_per_column_of_fewer_dimensions(%a: tensor<2x3x4xi8>, %b: tensor<4x2xi8>) -> tensor<2x3x2xf32> {
  %x = qvit.dequantize %a <1.0> : tensor<2x3x4xi8> -> tensor<2x3x4xf32>
  %y = qvit.dequantize %b <[3.0, 5.0], axis = 1> : tensor<4x2xi8> -> tensor<4x2xf32>
  %c = qvit.matmul %x, %y : (tensor<2x3x4xf32>, tensor<4x2xf32>) -> tensor<2x3x2xf32>
  func.return %c : tensor<2x3x2xf32>
}
// CHECK-LABEL: @matmul_per_column_of_fewer_dimensions
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul
// CHECK-NEXT:    qvit.dequantize %[[P]] <[3.0, 5.0], axis = 2>

// -----

// Batches that are repeated: a vector of one scale is a number there, next to the other operand's vector.
func.func @matmul_repeated_batch(%a: tensor<1x3x4xi8>, %b: tensor<2x4x5xi8>) -> tensor<2x3x5xf32> {
  %x = qvit.dequantize %a <[0.5], axis = 0> : tensor<1x3x4xi8> -> tensor<1x3x4xf32>
  %y = qvit.dequantize %b <[3.0, 5.0], axis = 0> : tensor<2x4x5xi8> -> tensor<2x4x5xf32>
  %c = qvit.matmul %x, %y : (tensor<1x3x4xf32>, tensor<2x4x5xf32>) -> tensor<2x3x5xf32>
  func.return %c : tensor<2x3x5xf32>
}
// CHECK-LABEL: @matmul_repeated_batch
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul
// CHECK-NEXT:    qvit.dequantize %[[P]] <[3.0, 5.0] * 0.5, axis = 0>

// -----

// One dequantize feeds both operands.
func.func @matmul_of_itself(%a: tensor<2x2xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %a <0.5, zero_point = 1> : tensor<2x2xi8> -> tensor<2x2xf32>
  %c = qvit.matmul %x, %x : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
  func.return %c : tensor<2x2xf32>
}
// CHECK-LABEL: @matmul_of_itself
// CHECK-SAME:    (%[[A:.*]]: tensor<2x2xi8>)
// CHECK-NEXT:    %[[P:.*]] = qvit.matmul %[[A]], %[[A]] lhs_zero_point <1> rhs_zero_point <1>
// CHECK-NEXT:    qvit.dequantize %[[P]] <0.5 * 0.5>

// -----

// Q, K and V of one input, which a float operation reads, too.
func.func @linear_shared(%q: tensor<2x3xi8>, %w: tensor<4x3xi8>, %v: tensor<4x3xi8>) -> (tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x3xf32>) {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %a = qvit.dequantize %w <0.1> : tensor<4x3xi8> -> tensor<4x3xf32>
  %b = qvit.dequantize %v <0.2> : tensor<4x3xi8> -> tensor<4x3xf32>
  %y = qvit.linear %x, %a : (tensor<2x3xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>
  %z = qvit.linear %x, %b : (tensor<2x3xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>
  %g = qvit.gelu %x : tensor<2x3xf32>
  func.return %y, %z, %g : tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x3xf32>
}
// CHECK-LABEL: @linear_shared
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>, %[[W:.*]]: tensor<4x3xi8>, %[[V:.*]]: tensor<4x3xi8>)
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize %[[Q]] <0.5>
// CHECK-NEXT:    %[[M:.*]] = qvit.linear %[[Q]], %[[W]] :
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[M]] <0.5 * 0.1>
// CHECK-NEXT:    %[[N:.*]] = qvit.linear %[[Q]], %[[V]] :
// CHECK-NEXT:    %[[Z:.*]] = qvit.dequantize %[[N]] <0.5 * 0.2>
// CHECK-NEXT:    %[[G:.*]] = qvit.gelu %[[X]]
// CHECK-NEXT:    return %[[Y]], %[[Z]], %[[G]]

// -----

// A weight's scales and zero points lie along the outputs: the last axis of the result.
func.func @linear_per_output(%q: tensor<2x5x3xui8>) -> tensor<2x5x2xf32> {
  %x = qvit.dequantize %q <0.5, zero_point = 128> : tensor<2x5x3xui8> -> tensor<2x5x3xf32>
  %w = qvit.constant dense<[[1, 2, 3], [4, 5, 6]]> : tensor<2x3xi8>
  %v = qvit.dequantize %w <[3.0, 5.0], zero_point = [1, 2], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.linear %x, %v : (tensor<2x5x3xf32>, tensor<2x3xf32>) -> tensor<2x5x2xf32>
  func.return %y : tensor<2x5x2xf32>
}
// CHECK-LABEL: @linear_per_output
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x5x3xui8>)
// CHECK-NEXT:    %[[W:.*]] = qvit.constant
// CHECK-NEXT:    %[[P:.*]] = qvit.linear %[[Q]], %[[W]] input_zero_point <128> weight_zero_point <[1, 2]> : (tensor<2x5x3xui8>, tensor<2x3xi8>) -> tensor<2x5x2xi32>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[P]] <0.5 * [3.0, 5.0], axis = 2>
// CHECK-NEXT:    return %[[Y]]

// -----

// Per token, in one of several leading dimensions; the bias cannot join a sum whose scale varies by token.
func.func @linear_per_token(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[1, 2]> : tensor<2xi32>
  %b = qvit.dequantize %c <0.25> : tensor<2xi32> -> tensor<2xf32>
  %y = qvit.linear %x, %v, %b : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL: @linear_per_token
// CHECK:         %[[B:.*]] = qvit.dequantize %{{.*}} <0.25> : tensor<2xi32>
// CHECK-NEXT:    %[[P:.*]] = qvit.linear %{{[^,]*}}, %{{[^,]*}} : (tensor<2x3xi8>, tensor<2x3xi8>) -> tensor<2x2xi32>
// CHECK-NEXT:    %[[D:.*]] = qvit.dequantize %[[P]] <[0.5, 0.25] * 0.5, axis = 0>
// CHECK-NEXT:    qvit.add %[[D]], %[[B]]

// -----

// A bias at exactly 0.5 * t joins the accumulator: as the product, as its value, and where one t stands for a vector.
func.func @bias_exact(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>) -> (tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>) {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <[0.25, 0.1], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[7, 8]> : tensor<2xi32>
  %b = qvit.dequantize %c <0.5 * [0.25, 0.1], axis = 0> : tensor<2xi32> -> tensor<2xf32>
  %y = qvit.linear %x, %v, %b : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %d = qvit.dequantize %c <[0.125, 0.05], axis = 0> : tensor<2xi32> -> tensor<2xf32>
  %z = qvit.linear %x, %v, %d : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %u = qvit.dequantize %w <0.25> : tensor<2x3xi8> -> tensor<2x3xf32>
  %e = qvit.dequantize %c <[0.125, 0.125], axis = 0> : tensor<2xi32> -> tensor<2xf32>
  %t = qvit.linear %x, %u, %e : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  func.return %y, %z, %t : tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>
}
// CHECK-LABEL: @bias_exact
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>, %[[W:.*]]: tensor<2x3xi8>)
// CHECK-NEXT:    %[[C:.*]] = qvit.constant dense<[7, 8]>
// CHECK-NEXT:    %[[P:.*]] = qvit.linear %[[Q]], %[[W]], %[[C]] : (tensor<2x3xi8>, tensor<2x3xi8>, tensor<2xi32>) -> tensor<2x2xi32>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[P]] <0.5 * [0.25, 0.1], axis = 1>
// CHECK-NEXT:    %[[R:.*]] = qvit.linear %[[Q]], %[[W]], %[[C]]
// CHECK-NEXT:    %[[Z:.*]] = qvit.dequantize %[[R]] <0.5 * [0.25, 0.1], axis = 1>
// CHECK-NEXT:    %[[S:.*]] = qvit.linear %[[Q]], %[[W]], %[[C]]
// CHECK-NEXT:    %[[T:.*]] = qvit.dequantize %[[S]] <0.5 * 0.25>
// CHECK-NEXT:    return %[[Y]], %[[Z]], %[[T]]

// -----

// One unit in the last place of one channel: what a bias scale looks like that was rounded to f32.
func.func @bias_off_by_one_ulp(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <[0.25, 0.5], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[7, 8]> : tensor<2xi32>
  %b = qvit.dequantize %c <[0.125, 0.25000003], axis = 0> : tensor<2xi32> -> tensor<2xf32>
  %y = qvit.linear %x, %v, %b : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL: @bias_off_by_one_ulp
// CHECK:         %[[B:.*]] = qvit.dequantize %{{.*}} <[0.125, 0.25000003], axis = 0>
// CHECK-NEXT:    %[[P:.*]] = qvit.linear %{{[^,]*}}, %{{[^,]*}} :
// CHECK-NEXT:    %[[D:.*]] = qvit.dequantize %[[P]] <0.5 * [0.25, 0.5], axis = 1>
// CHECK-NEXT:    qvit.add %[[D]], %[[B]]

// -----

// The product of three f32 numbers, rounded to f64: no closer number can be stored, and it is not exact.
func.func @bias_off_by_f64_rounding(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %q <0.1 * 0.7> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <0.3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[7, 8]> : tensor<2xi32>
  %b = qvit.dequantize %c <0.021000000789761535 : f64> : tensor<2xi32> -> tensor<2xf32>
  %y = qvit.linear %x, %v, %b : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL: @bias_off_by_f64_rounding
// CHECK:         qvit.linear %{{[^,]*}}, %{{[^,]*}} :
// CHECK:         qvit.add

// -----

// One channel of two, by one unit in the last place of f64.
func.func @bias_off_in_one_channel(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <[0.25, 0.5], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[7, 8]> : tensor<2xi32>
  %b = qvit.dequantize %c <[0.125, 0.25000000000000006] : f64, axis = 0> : tensor<2xi32> -> tensor<2xf32>
  %y = qvit.linear %x, %v, %b : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL: @bias_off_in_one_channel
// CHECK:         qvit.linear %{{[^,]*}}, %{{[^,]*}} :
// CHECK:         qvit.add

// -----

// Not i32, with a zero point, in float: all of these are added behind the dequantize.
func.func @bias_stays(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>, %f: tensor<2xf32>) -> (tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>) {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <0.25> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[7, 8]> : tensor<2xi16>
  %b = qvit.dequantize %c <0.125> : tensor<2xi16> -> tensor<2xf32>
  %y = qvit.linear %x, %v, %b : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %d = qvit.constant dense<[7, 8]> : tensor<2xi32>
  %e = qvit.dequantize %d <0.125, zero_point = 1> : tensor<2xi32> -> tensor<2xf32>
  %z = qvit.linear %x, %v, %e : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %u = qvit.linear %x, %v, %f : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  func.return %y, %z, %u : tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>
}
// CHECK-LABEL: @bias_stays
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>, %[[W:.*]]: tensor<2x3xi8>, %[[F:.*]]: tensor<2xf32>)
// CHECK:         %[[B:.*]] = qvit.dequantize %{{.*}} <0.125> : tensor<2xi16>
// CHECK-NEXT:    %[[P:.*]] = qvit.linear %[[Q]], %[[W]] :
// CHECK-NEXT:    %[[D:.*]] = qvit.dequantize %[[P]] <0.5 * 0.25>
// CHECK-NEXT:    %[[Y:.*]] = qvit.add %[[D]], %[[B]]
// CHECK:         %[[E:.*]] = qvit.dequantize %{{.*}} <0.125, zero_point = 1> : tensor<2xi32>
// CHECK-NEXT:    %[[R:.*]] = qvit.linear %[[Q]], %[[W]] :
// CHECK-NEXT:    %[[G:.*]] = qvit.dequantize %[[R]] <0.5 * 0.25>
// CHECK-NEXT:    %[[Z:.*]] = qvit.add %[[G]], %[[E]]
// CHECK-NEXT:    %[[S:.*]] = qvit.linear %[[Q]], %[[W]] :
// CHECK-NEXT:    %[[H:.*]] = qvit.dequantize %[[S]] <0.5 * 0.25>
// CHECK-NEXT:    %[[U:.*]] = qvit.add %[[H]], %[[F]]
// CHECK-NEXT:    return %[[Y]], %[[Z]], %[[U]]

// -----

// Padding, strides, dilations and groups stay; padding is of the real 0, which the zero point says.
func.func @conv2d(%q: tensor<1x2x5x5xui8>) -> tensor<1x4x3x2xf32> {
  %x = qvit.dequantize %q <0.5, zero_point = 128> : tensor<1x2x5x5xui8> -> tensor<1x2x5x5xf32>
  %w = qvit.constant dense<1> : tensor<4x1x2x2xi8>
  %v = qvit.dequantize %w <[1.0, 3.0, 5.0, 7.0], zero_point = [0, 1, 2, 3], axis = 0> : tensor<4x1x2x2xi8> -> tensor<4x1x2x2xf32>
  %c = qvit.constant dense<[1, 2, 3, 4]> : tensor<4xi32>
  %b = qvit.dequantize %c <[0.5, 1.5, 2.5, 3.5], axis = 0> : tensor<4xi32> -> tensor<4xf32>
  %y = qvit.conv2d %x, %v, %b {dilations = array<i64: 1, 3>, groups = 2 : i64, padding = array<i64: 1, 0, 1, 1>, strides = array<i64: 2, 2>}
    : (tensor<1x2x5x5xf32>, tensor<4x1x2x2xf32>, tensor<4xf32>) -> tensor<1x4x3x2xf32>
  func.return %y : tensor<1x4x3x2xf32>
}
// CHECK-LABEL: @conv2d
// CHECK-SAME:    (%[[Q:.*]]: tensor<1x2x5x5xui8>)
// CHECK-NEXT:    %[[W:.*]] = qvit.constant dense<1>
// CHECK-NEXT:    %[[C:.*]] = qvit.constant dense<[1, 2, 3, 4]>
// CHECK-NEXT:    %[[P:.*]] = qvit.conv2d %[[Q]], %[[W]], %[[C]] input_zero_point <128> weight_zero_point <[0, 1, 2, 3]>
// CHECK-SAME:      strides = array<i64: 2, 2>
// CHECK-SAME:      padding = array<i64: 1, 0, 1, 1>
// CHECK-SAME:      dilations = array<i64: 1, 3>
// CHECK-SAME:      groups = 2 : i64
// CHECK-SAME:      : (tensor<1x2x5x5xui8>, tensor<4x1x2x2xi8>, tensor<4xi32>) -> tensor<1x4x3x2xi32>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[P]] <0.5 * [1.0, 3.0, 5.0, 7.0], axis = 1>
// CHECK-NEXT:    return %[[Y]]

// -----

// A bias that stays is laid along the channels; a dequantized one stays dequantized behind the reshape.
func.func @conv2d_bias_stays(%q: tensor<2x1x2x2xi8>, %w: tensor<3x1x1x1xi8>) -> (tensor<2x3x2x2xf32>, tensor<2x3x2x2xf32>) {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x1x2x2xi8> -> tensor<2x1x2x2xf32>
  %v = qvit.dequantize %w <0.5> : tensor<3x1x1x1xi8> -> tensor<3x1x1x1xf32>
  %b = qvit.constant dense<[0.1, 0.2, 0.3]> : tensor<3xf32>
  %y = qvit.conv2d %x, %v, %b : (tensor<2x1x2x2xf32>, tensor<3x1x1x1xf32>, tensor<3xf32>) -> tensor<2x3x2x2xf32>
  %c = qvit.constant dense<[1, 2, 3]> : tensor<3xi32>
  %d = qvit.dequantize %c <[3.0, 5.0, 7.0], axis = 0> : tensor<3xi32> -> tensor<3xf32>
  %z = qvit.conv2d %x, %v, %d : (tensor<2x1x2x2xf32>, tensor<3x1x1x1xf32>, tensor<3xf32>) -> tensor<2x3x2x2xf32>
  func.return %y, %z : tensor<2x3x2x2xf32>, tensor<2x3x2x2xf32>
}
// CHECK-LABEL: @conv2d_bias_stays
// CHECK:         %[[B:.*]] = qvit.constant dense<[{{1.0*e-01}}
// CHECK-NEXT:    %[[P:.*]] = qvit.conv2d %{{[^,]*}}, %{{[^,]*}} {{[^%]*}} -> tensor<2x3x2x2xi32>
// CHECK-NEXT:    %[[D:.*]] = qvit.dequantize %[[P]] <[0.5, 0.25] * 0.5, axis = 0>
// CHECK-NEXT:    %[[L:.*]] = qvit.reshape %[[B]] : tensor<3xf32> -> tensor<3x1x1xf32>
// CHECK-NEXT:    %[[Y:.*]] = qvit.add %[[D]], %[[L]]
// CHECK-NEXT:    %[[C:.*]] = qvit.constant dense<[1, 2, 3]>
// CHECK-NEXT:    %[[R:.*]] = qvit.conv2d
// CHECK-NEXT:    %[[E:.*]] = qvit.dequantize %[[R]] <[0.5, 0.25] * 0.5, axis = 0>
// CHECK-NEXT:    %[[M:.*]] = qvit.reshape %[[C]] : tensor<3xi32> -> tensor<3x1x1xi32>
// CHECK-NEXT:    %[[N:.*]] = qvit.dequantize %[[M]] <[3.0, 5.0, 7.0], axis = 0>
// CHECK-NEXT:    %[[Z:.*]] = qvit.add %[[E]], %[[N]]
// CHECK-NEXT:    return %[[Y]], %[[Z]]

// -----

// Sums reach 32768 * (32767 + 32768) = 2147450880 and i32 ends at 2147483647: a constant's codes count, not their type.
func.func @accumulator_knows_weights(%q: tensor<1x2xi16>) -> tensor<1x1xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<1x2xi16> -> tensor<1x2xf32>
  %w = qvit.constant dense<[[32767, -32768]]> : tensor<1x2xi32>
  %v = qvit.dequantize %w <0.5> : tensor<1x2xi32> -> tensor<1x2xf32>
  %y = qvit.linear %x, %v : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x1xf32>
  func.return %y : tensor<1x1xf32>
}
// CHECK-LABEL: @accumulator_knows_weights
// CHECK:         qvit.linear %{{.*}} -> tensor<1x1xi32>

// -----

// Real pieces of a model in one chain: projection, heads, attention scale, scores, quantize.
func.func @scores(%q: tensor<2x4xi8>, %w: tensor<4x4xi8>, %k: tensor<2x2x2xi8>) -> tensor<2x2x2xi8> {
  %x = qvit.dequantize %q <0.5> : tensor<2x4xi8> -> tensor<2x4xf32>
  %v = qvit.dequantize %w <[0.1, 0.1, 0.3, 0.3], axis = 0> : tensor<4x4xi8> -> tensor<4x4xf32>
  %y = qvit.linear %x, %v : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32>
  %p = qvit.quantize %y <0.2> : tensor<2x4xf32> -> tensor<2x4xi8>
  %r = qvit.dequantize %p <0.2> : tensor<2x4xi8> -> tensor<2x4xf32>
  %h = qvit.reshape %r : tensor<2x4xf32> -> tensor<2x2x2xf32>
  %t = qvit.transpose %h [1, 0, 2] : tensor<2x2x2xf32> -> tensor<2x2x2xf32>
  %c = qvit.constant dense<8.0> : tensor<f32>
  %s = qvit.div %t, %c : (tensor<2x2x2xf32>, tensor<f32>) -> tensor<2x2x2xf32>
  %u = qvit.dequantize %k <0.3> : tensor<2x2x2xi8> -> tensor<2x2x2xf32>
  %m = qvit.matmul %s, %u : (tensor<2x2x2xf32>, tensor<2x2x2xf32>) -> tensor<2x2x2xf32>
  %o = qvit.quantize %m <0.7> : tensor<2x2x2xf32> -> tensor<2x2x2xi8>
  func.return %o : tensor<2x2x2xi8>
}
// CHECK-LABEL: @scores
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x4xi8>, %[[W:.*]]: tensor<4x4xi8>, %[[K:.*]]: tensor<2x2x2xi8>)
// CHECK-NEXT:    %[[Y:.*]] = qvit.linear %[[Q]], %[[W]] :
// CHECK-NEXT:    %[[P:.*]] = qvit.requantize %[[Y]] by #qvit.real<0.5 * [0.1, 0.1, 0.3, 0.3] / 0.2> axis 1
// CHECK-NEXT:    %[[H:.*]] = qvit.reshape %[[P]]
// CHECK-NEXT:    %[[T:.*]] = qvit.transpose %[[H]] [1, 0, 2]
// CHECK-NEXT:    %[[M:.*]] = qvit.matmul %[[T]], %[[K]] :
// CHECK-NEXT:    %[[O:.*]] = qvit.requantize %[[M]] by #qvit.real<0.2 * 0.3 / 8.0 / 0.7>
// CHECK-NEXT:    return %[[O]]
